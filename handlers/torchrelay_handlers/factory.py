"""`handler_factory` makes a handler from an author's per-sample functions.

handler = handler_factory(
    init_function=init_function,          # (**init_kwargs) -> torch.nn.Module, without weights
    preprocess_function=preprocess,       # one decoded body -> tensor(s) without a batch dimension
    postprocess_function=postprocess,     # one output without a batch dimension -> anything that JSON can express
    resnet_layers=18,                     # further keyword arguments go to init_function
)
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard, TypeVar, overload

import torch
from torch import nn

from torchrelay_handlers import catalogue
from torchrelay_handlers.bodies import parsers
from torchrelay_handlers.bodies.decode import is_image, unwrapped
from torchrelay_handlers.handler import Handler
from torchrelay_handlers.problems import BadSample
from torchrelay_handlers.steps import Steps, input_of, same

if TYPE_CHECKING:
    from torchrelay_handlers.bodies.images import Budget

_Function = TypeVar("_Function", bound=Callable[..., Any])


def handler_factory(
    init_function: Callable[..., nn.Module] | None = None,
    preprocess_function: Callable[..., Any] | None = None,
    postprocess_function: Callable[..., Any] | None = None,
    install_packages: Callable[..., object] | None = None,
    unpack_dependencies: Callable[..., object] | None = None,
    *,
    collate_function: Callable[..., Any] | None = None,
    preprocess_kwargs: Mapping[str, Any] | None = None,
    postprocess_kwargs: Mapping[str, Any] | None = None,
    collate_kwargs: Mapping[str, Any] | None = None,
    install_kwargs: Mapping[str, Any] | None = None,
    unpack_kwargs: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    **init_kwargs: Any,
) -> "OwnHandler":
    """Make a handler from functions that see one sample each; the library does batches, device, weights and errors.

    - `init_function(**init_kwargs)` returns the network; its weights are loaded afterwards, strictly. It may be left
      out when the weights are TorchScript or torch.export.
    - `preprocess_function(sample, **preprocess_kwargs)` gets one body: a JSON value, an RGB Pillow image, text, or bytes
      (`options={"input": ...}` fixes which). It returns a tensor without batch dimension, a tuple of tensors for networks
      of several inputs, or a dict of tensors for keyword arguments. Left out, the body's numbers are the sample.
    - `postprocess_function(output, **postprocess_kwargs)` gets one output, on the CPU, without batch dimension, and
      returns what JSON can express (tensors and numpy values included) or `Raw`. Left out, the output's numbers are the answer.
    - `collate_function(samples, **collate_kwargs)` makes a batch of the list of preprocessed samples, instead of stacking.
    - `install_packages(**install_kwargs)` and `unpack_dependencies(**unpack_kwargs)` run once, in that order and in the model's
      folder, after the requirements and before init_function: when the image is built, not when it starts (`setup_functions`).
    - `options` are those of `catalogue.OWN` (nan, precision, shape, dtype, input, ...); model.yaml's handler_args win over them.

    The functions can be given later, as decorators: see `OwnHandler`.
    Raise `BadSample` in preprocess or postprocess to refuse a sample in your own words.
    """
    recipe = _OwnFunctions(
        preprocess_function,
        postprocess_function,
        collate_function,
        dict(preprocess_kwargs or {}),
        dict(postprocess_kwargs or {}),
        dict(collate_kwargs or {}),
    )
    handler = OwnHandler(recipe, init_function=init_function, options=options)
    handler.init_kwargs = dict(init_kwargs)
    handler.install_packages = partial(install_packages, **(install_kwargs or {})) if install_packages else None
    handler.unpack_dependencies = partial(unpack_dependencies, **(unpack_kwargs or {})) if unpack_dependencies else None
    return handler


@dataclass
class _OwnFunctions:
    preprocess_function: Callable[..., Any] | None
    postprocess_function: Callable[..., Any] | None
    collate_function: Callable[..., Any] | None
    preprocess_kwargs: dict[str, Any] = field(default_factory=dict)
    postprocess_kwargs: dict[str, Any] = field(default_factory=dict)
    collate_kwargs: dict[str, Any] = field(default_factory=dict)
    name: str = "own"

    def steps(self, options: Mapping[str, Any], model_dir: Path, dtype: torch.dtype | None) -> Steps:  # noqa: ARG002 - Recipe's signature
        """See Recipe."""
        wanted, before, after, collate = (
            options["input"],
            self.preprocess_function,
            self.postprocess_function,
            self.collate_function,
        )
        prepare: Callable[[object], object] = unwrapped
        if before is not None:
            bound = partial(before, **self.preprocess_kwargs) if self.preprocess_kwargs else before

            def prepare(value: object) -> object:
                return bound(as_input(value, wanted))

        conclude = partial(after, **self.postprocess_kwargs) if after is not None and self.postprocess_kwargs else after
        if collate is not None and self.collate_kwargs:
            collate = partial(collate, **self.collate_kwargs)
        admit = (
            partial(_admit, wanted, catalogue.pixel_limits(options)) if before is not None and wanted in ("auto", "image") else None
        )
        return Steps(prepare, conclude or same, input_of(options, dtype), collate=collate, admit=admit)


class OwnHandler(Handler):
    """What `handler_factory` returns. Its methods are decorators, which leave the function as it is:

    handler = handler_factory(options={"input": "image"})

    @handler.init(width=16)          # keyword arguments for the function, if any
    def network(width): ...

    @handler.preprocess
    def to_tensor(sample): ...
    """

    recipe: _OwnFunctions

    @property
    def init(self) -> "Decorator":
        """`(**kwargs) -> torch.nn.Module`, without weights."""
        return Decorator(self, "init_function", self.init_kwargs)

    @property
    def preprocess(self) -> "Decorator":
        """`(sample, **kwargs) -> tensor(s)`, one sample without a batch dimension."""
        return Decorator(self.recipe, "preprocess_function", self.recipe.preprocess_kwargs)

    @property
    def postprocess(self) -> "Decorator":
        """`(output, **kwargs) -> answer`, one output without a batch dimension."""
        return Decorator(self.recipe, "postprocess_function", self.recipe.postprocess_kwargs)

    @property
    def collate(self) -> "Decorator":
        """`(samples, **kwargs) -> batch`, instead of stacking equal shapes."""
        return Decorator(self.recipe, "collate_function", self.recipe.collate_kwargs)


class Decorator:
    """Sets the attribute `name` of `owner` to the function that it decorates; keyword arguments are stored for the function."""

    def __init__(self, owner: object, name: str, known: dict[str, Any]) -> None:
        self.owner = owner
        self.name = name
        self.known = known

    @overload
    def __call__(self, function: _Function, /) -> _Function: ...
    @overload
    def __call__(self, function: None = None, /, **kwargs: Any) -> Callable[[_Function], _Function]: ...
    def __call__(self, function: Any = None, /, **kwargs: Any) -> Any:
        """Set the function and return it; without a function, return the decorator.

        Raises:
            ValueError: the handler has such a function already.
        """
        if function is None:
            self.known.update(kwargs)
            return self
        before = getattr(self.owner, self.name)
        if before is not None:
            raise ValueError(f"this handler has a {self.name} already: {before.__name__}")
        setattr(self.owner, self.name, function)
        return function


def as_input(value: object, wanted: str) -> object:
    """A decoded body as the author asked for it (`options["input"]`).

    Raises:
        BadSample: the body is something else (415).
    """
    if type(value).__name__ == "Opened":  # by `_admit`; the class's module needs Pillow
        return value.load().convert("RGB")  # type: ignore[attr-defined] # see above
    value = _plain(value, wanted)
    is_bytes = isinstance(value, bytes | bytearray)
    if _is_picture(value, wanted):
        return _images().decode(bytes(value)).convert("RGB")
    if wanted == "auto":
        return value
    if (wanted == "json" and not is_bytes) or (wanted == "bytes" and is_bytes) or (wanted == "text" and isinstance(value, str)):
        return value
    raise BadSample(
        f"the body must be {wanted}; check the content type",
        expected={"input": wanted},
        status=415,
        kind="unsupported-media-type",
    )


def _plain(value: object, wanted: str) -> object:
    """Base64 in the places where it stands for bytes, as bytes."""
    if isinstance(value, dict) and value.keys() == {"b64"}:  # bytes within JSON, in the form of TensorFlow Serving and Vertex AI
        return value["b64"] if not isinstance(value["b64"], str) else parsers.parse_base64(value["b64"])
    return parsers.parse_base64(value) if isinstance(value, str) and wanted in ("bytes", "image") else value


def _is_picture(value: object, wanted: str) -> TypeGuard[bytes | bytearray]:
    return isinstance(value, bytes | bytearray) and (wanted == "image" or (wanted == "auto" and is_image(bytes(value[:12]))))


def _admit(wanted: str, most: tuple[int, int], values: list[object]) -> list[object]:
    """The samples of one request, its pictures opened and not yet decoded.

    Raises:
        BadSample: the pictures are too much work together (413).
    """
    budget: Budget | None = None
    admitted = list(values)
    for place, value in enumerate(values):
        try:
            plain = _plain(value, wanted)
        except BadSample as refusal:
            admitted[place] = refusal
            continue
        if _is_picture(plain, wanted):
            budget = budget or _images().Budget(_images().Limits(*most))
            admitted[place] = budget.open(bytes(plain))
    return admitted


def _images() -> Any:
    from torchrelay_handlers.bodies import images  # noqa: PLC0415 - only handlers of images need Pillow

    return images
