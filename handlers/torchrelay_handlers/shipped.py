"""The shipped handlers, tensor and image-classifier; their options are in `catalogue.SHIPPED`."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from torchrelay_handlers.factory import same, unwrapped
from torchrelay_handlers.handler import Handler
from torchrelay_handlers.problems import Refusal
from torchrelay_handlers.steps import Recipe, Steps, input_of
from torchrelay_handlers.tensors import NetworkInput


def make(name: str, init_function: Callable[..., nn.Module] | None = None, options: Mapping[str, Any] | None = None) -> Handler:
    """The shipped handler `name`, still without its weights.

    Raises:
        ValueError: there is no such handler, or an option is wrong.
    """
    recipe = _RECIPES.get(name)
    if recipe is None:
        raise ValueError(f"there is no shipped handler {name!r}; there are " + ", ".join(_RECIPES))
    return Handler(recipe, init_function=init_function, options=options)


class _TensorRecipe:
    """Numbers in, numbers out."""

    name = "tensor"

    def steps(self, options: Mapping[str, Any], model_dir: Path, dtype: torch.dtype | None) -> Steps:  # noqa: ARG002 - Recipe's signature
        """See Recipe."""
        network_input = input_of(options, dtype)
        conclude = {"values": None, "softmax": _softmax, "argmax": _argmax}[options["output"]]
        return Steps(
            unwrapped,
            same,
            network_input,
            conclude=conclude,
            expand=_Expand(network_input) if network_input.shape is not None else None,
            example=_example(network_input),
        )


class _Expand:
    """Finds [N, *shape] in a body where `shape` is one sample: what SageMaker's and numpy's clients send."""

    def __init__(self, network_input: NetworkInput) -> None:
        self.depth = len(network_input.shape or ())

    def __call__(self, value: object) -> list[object] | None:
        rows = unwrapped(value)
        depth, inner = 0, rows
        while isinstance(inner, list) and inner and depth <= self.depth:
            inner = inner[0]
            depth += 1
        if getattr(rows, "ndim", None) == self.depth + 1:  # an .npy body
            return list(rows)  # type: ignore[call-overload, no-any-return] # an array, whose package is optional
        return rows if isinstance(rows, list) and depth == self.depth + 1 and not isinstance(inner, list) else None


def _example(network_input: NetworkInput) -> Tensor | None:
    shape = network_input.shape
    if shape is None or None in shape:
        return None
    return torch.zeros([size for size in shape if size is not None], dtype=network_input.dtype or torch.float32)


def _softmax(output: Any) -> Any:
    return output.softmax(-1)


def _argmax(output: Any) -> Any:
    return output.argmax(-1)


class _ImageClassifierRecipe:
    """A picture in; the likeliest class and its confidence out."""

    name = "image-classifier"

    def steps(self, options: Mapping[str, Any], model_dir: Path, dtype: torch.dtype | None) -> Steps:
        """See Recipe."""
        from torchrelay_handlers import images  # noqa: PLC0415 - Pillow is needed by this handler alone

        size = options["size"]
        height, width = (size, size) if isinstance(size, int) else size
        mode, channels = options["mode"], {"RGB": 3, "L": 1}[options["mode"]]
        stretch, shorter = options["fit"] == "stretch", options["resize"]
        if shorter is not None and not stretch and shorter < min(height, width):
            raise ValueError(f"handler_args.resize: {shorter} is smaller than size {size}; the crop would reach over the edge")
        formats, max_pixels = options["formats"], options["max_pixels"]

        def preprocess(value: object) -> Tensor:
            image = images.to_mode(images.decode(images.body_of(value), formats, max_pixels), mode)
            return images.as_tensor(images.fit(image, height, width, stretch=stretch, shorter=shorter))

        classifier = Classes(read_classes(options["classes"], model_dir), options["top_k"])
        return Steps(
            preprocess,
            classifier,
            NetworkInput([channels, height, width], torch.uint8),
            prepare=images.normalizer(options["mean"], options["std"], channels, dtype or torch.float32),
            conclude={"softmax": _softmax, "sigmoid": torch.sigmoid, "none": None}[options["activation"]],
            example=torch.zeros([channels, height, width], dtype=torch.uint8),
            check_example=classifier.check,
        )


class Classes:
    """Makes `{"class": ..., "confidence": ...}` of a float [C] of confidences; with `top_k` > 1 also `top`, that many of them."""

    def __init__(self, names: list[str] | None, top_k: int) -> None:
        self.names = names
        self.top_k = top_k

    def check(self, output: Any) -> None:
        """Refuse to start when the network and the list of classes disagree."""
        if not isinstance(output, Tensor) or output.dim() != 1:
            shape = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise RuntimeError(f"image-classifier needs one number per class, and the network answers {shape} to an image")
        if self.names is not None and len(self.names) != output.numel():
            raise RuntimeError(f"the network tells {output.numel()} classes apart, and `classes` names {len(self.names)}")

    def __call__(self, output: Tensor) -> object:
        """See the class."""
        values, places = output.topk(min(self.top_k, output.numel()))
        confidences = values.tolist()
        if confidences[0] != confidences[0]:  # NaN: the network's fault, and no class is likeliest
            raise Refusal(500, "not-finite", "the network's confidences are not numbers")
        top = [
            {"class": self.names[place] if self.names is not None else str(place), "confidence": confidence}
            for place, confidence in zip(places.tolist(), confidences, strict=True)
        ]
        return top[0] if self.top_k == 1 else {**top[0], "top": top}


def read_classes(told: object, model_dir: Path) -> list[str] | None:
    """The names of the classes: a list, or a file of the model with one name a line, a JSON list or an index-to-name JSON object.

    Raises:
        ValueError: the file is missing or holds something else.
    """
    if told is None or isinstance(told, list):
        return [str(name) for name in told] if told else None
    path = model_dir / str(told)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"handler_args.classes: {told} cannot be read: {error}") from None
    if path.suffix != ".json":
        return [line.strip() for line in text.splitlines() if line.strip()]
    try:
        listed = json.loads(text)
        if isinstance(listed, dict):  # TorchServe's index_to_name.json: {"0": "cat"} or {"0": ["n02121808", "cat"]}
            listed = [listed[str(place)] for place in range(len(listed))]
        return [str(name[-1] if isinstance(name, list) else name) for name in listed]
    except (ValueError, TypeError, KeyError, IndexError):
        raise ValueError(f"handler_args.classes: {told} is neither a list of names nor an index-to-name object") from None


_RECIPES: dict[str, Recipe] = {recipe.name: recipe for recipe in (_TensorRecipe(), _ImageClassifierRecipe())}
