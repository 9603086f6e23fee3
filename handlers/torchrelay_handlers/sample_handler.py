"""A class instead of functions, for authors who prefer one.

    class Digits(SampleHandler):
        options = {"input": "image"}

        def init_function(self, width=16): return Net(width)
        def preprocess(self, sample): return to_tensor(sample)
        def postprocess(self, output): return output.argmax().item()

An archive's `handler: handler.py` finds it; a test makes one with `Digits.as_handler().load("model.pt")`.
"""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from torch import nn

from torchrelay_handlers.bodies.decode import unwrapped
from torchrelay_handlers.factory import OwnHandler, handler_factory


class SampleHandler:
    """Derive from it and write what differs; each method sees one sample and may keep state on `self` for the worker's life.

    `collate`, when given, is called with the list of preprocessed samples of a batch, and returns the batch;
    `install_packages` and `unpack_dependencies` are methods without arguments, run when the image is built.
    """

    options: ClassVar[Mapping[str, Any]] = {}
    collate: Callable[[list[Any]], Any] | None = None
    install_packages: Callable[[], object] | None = None
    unpack_dependencies: Callable[[], object] | None = None

    def init_function(self, *_: Any, **init_args: Any) -> nn.Module:
        """The network, without weights; not needed for TorchScript and torch.export."""
        raise NotImplementedError(f"init_function({', '.join(init_args)})")

    def preprocess(self, sample: Any) -> Any:
        """One decoded body -> tensor(s) without a batch dimension."""
        return unwrapped(sample)

    def postprocess(self, output: Any) -> Any:
        """One output, on the CPU, without a batch dimension -> anything that JSON can express, or `Raw`."""
        return output

    @classmethod
    def as_handler(cls, **init_args: Any) -> OwnHandler:
        """The handler, still without weights; `init_args` go to init_function."""
        instance = cls()
        return handler_factory(
            instance.init_function if cls.init_function is not SampleHandler.init_function else None,
            instance.preprocess,
            instance.postprocess,
            instance.install_packages,
            instance.unpack_dependencies,
            collate_function=instance.collate,
            options=cls.options,
            **init_args,
        )
