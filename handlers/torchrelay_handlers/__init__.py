"""The handler library: per-sample functions in, whole batches answered right, under any server.

    from torchrelay_handlers import BadSample, handler_factory

    handler = handler_factory(init_function, preprocess_function=preprocess, postprocess_function=postprocess, width=16)

Importing this package imports neither torch nor Pillow: names are loaded when they are first used, so that the
command line can read `catalogue` on a machine without them.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torchrelay_handlers.bodies.json_out import Raw
    from torchrelay_handlers.factory import handler_factory
    from torchrelay_handlers.handler import Handler
    from torchrelay_handlers.messages import Answer, Request
    from torchrelay_handlers.problems import BadSample
    from torchrelay_handlers.sample_handler import SampleHandler

__all__ = ["Answer", "BadSample", "Handler", "Raw", "Request", "SampleHandler", "handler_factory"]

_HOMES = {
    "Answer": "messages",
    "BadSample": "problems",
    "Handler": "handler",
    "Raw": "bodies.json_out",
    "Request": "messages",
    "SampleHandler": "sample_handler",
    "handler_factory": "factory",
}


def __getattr__(name: str) -> object:
    """Load a public name from its module on first use (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
