"""Finds the handler: a shipped one, or the one in the author's Python file, in any of the accepted styles."""

import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from torchrelay_handlers import catalogue, factory, shipped
from torchrelay_handlers.factory import handler_factory
from torchrelay_handlers.handler import Handler
from torchrelay_handlers.model_files import import_file
from torchrelay_handlers.sagemaker import FUNCTION_NAMES, SageMakerHandler
from torchrelay_handlers.sample_handler import SampleHandler
from torchrelay_handlers.settings import Settings

ACCEPTED = """a handler file must contain one of
  handler = handler_factory(init_function, ...)          per-sample functions
  class Mine(SampleHandler)                              the same, as a class
  def init_function / preprocess / postprocess           the same, without the factory
  def model_fn / input_fn / predict_fn / output_fn       SageMaker's functions
  def handle(data, context), or a class with initialize and handle     a TorchServe handler"""


@dataclass(frozen=True, slots=True)
class TorchServeEntry:
    """A handler written for TorchServe itself: `handle(data, context)`, and `initialize`, which loads its model."""

    handle: Callable[[Any, Any], Any]
    initialize: Callable[[Any], object]


AnyHandler = Handler | SageMakerHandler | TorchServeEntry


def find(settings: Settings, model_dir: Path) -> AnyHandler:
    """The handler that torchrelay.json names, configured, not yet loaded.

    Raises:
        RuntimeError: a file is missing, or holds nothing that can serve.
        ValueError: a handler option is wrong.
    """
    sys.modules.setdefault("base_handler", factory)  # older handler files import handler_factory from there
    if catalogue.is_shipped(settings.handler):
        handler = shipped.make(settings.handler, _model_init_function(settings, model_dir))
        return handler.configure(settings.handler_args, settings.init_args)
    file, _, attribute = settings.handler.partition(":")
    if not file.endswith(".py"):
        known = ", ".join(catalogue.SHIPPED)
        raise RuntimeError(f"handler {settings.handler!r} is neither shipped ({known}) nor a Python file")
    entry = entry_of(import_file(model_dir, file), attribute)
    if isinstance(entry, Handler):
        entry.init_function = entry.init_function or _model_init_function(settings, model_dir)
        return entry.configure(settings.handler_args, settings.init_args)
    for field, value in (("handler_args", settings.handler_args), ("init_args", settings.init_args)):
        if value:
            style = "SageMaker's functions" if isinstance(entry, SageMakerHandler) else "a handler written for TorchServe"
            raise ValueError(f"{field}: {file} contains {style}, which cannot receive them; remove {field} from model.yaml")
    if isinstance(entry, SageMakerHandler) and not hasattr(entry.module, "model_fn"):
        entry.init_function = entry.init_function or _model_init_function(settings, model_dir)
    return entry


def _model_init_function(settings: Settings, model_dir: Path) -> Callable[..., nn.Module] | None:
    """The function in the model file that makes the network, None without a model file."""
    return init_function_of(import_file(model_dir, settings.model_file)) if settings.model_file else None


def init_function_of(module: ModuleType) -> Callable[..., nn.Module]:
    """The module's `init_function`, or its only network class.

    Raises:
        RuntimeError: there is neither, or several classes.
    """
    function = getattr(module, "init_function", None)
    if callable(function):
        return function  # type: ignore[no-any-return] # the author's: checked when it is called
    networks = [c for c in _own_classes(module) if issubclass(c, nn.Module)]
    if len(networks) == 1:
        return networks[0]
    names = ", ".join(c.__name__ for c in networks) or "none"
    raise RuntimeError(
        f"{module.__name__}.py has no init_function, and not exactly one torch.nn.Module class ({names}); add\n"
        "  def init_function(**init_args): return TheNetwork(...)"
    )


def entry_of(module: ModuleType, attribute: str = "") -> AnyHandler:  # noqa: PLR0911 - one return per style
    """The handler in the author's module: `attribute`, or the first of the styles in `ACCEPTED` that is there.

    Raises:
        RuntimeError: there is none.
    """
    if attribute:
        if not hasattr(module, attribute):
            raise RuntimeError(f"{module.__name__}.py has no {attribute!r}")
        return _as_entry(getattr(module, attribute), f"{module.__name__}.py:{attribute}")
    handlers = [value for value in vars(module).values() if isinstance(value, Handler)]
    if isinstance(getattr(module, "handler", None), Handler):
        return module.handler  # type: ignore[no-any-return] # a module's attribute has no type
    if len(handlers) == 1:
        return handlers[0]
    if callable(getattr(module, "handle", None)):
        return _as_entry(module.handle, "handle")
    if any(callable(getattr(module, name, None)) for name in FUNCTION_NAMES):
        return SageMakerHandler(module)
    sample_handlers = [c for c in _own_classes(module) if issubclass(c, SampleHandler)]
    if len(sample_handlers) == 1:
        return sample_handlers[0].as_handler()
    functions = _functions(module)
    if functions is not None:
        return functions
    classes = [c for c in _own_classes(module) if hasattr(c, "handle") and hasattr(c, "initialize")]
    if len(classes) == 1:
        return _as_entry(classes[0], classes[0].__name__)
    raise RuntimeError(f"{module.__name__}.py contains no handler; {ACCEPTED}")


def _as_entry(value: Any, name: str) -> AnyHandler:
    if isinstance(value, Handler):
        return value
    if inspect.isclass(value) and issubclass(value, SampleHandler):
        return value.as_handler()
    if inspect.isclass(value):
        value = value()
    if hasattr(value, "handle") and hasattr(value, "initialize"):
        return TorchServeEntry(value.handle, value.initialize)
    if callable(value):
        return TorchServeEntry(value, lambda context: value(None, context))
    raise RuntimeError(f"{name} is a {type(value).__name__}; {ACCEPTED}")


def _functions(module: ModuleType) -> Handler | None:
    """Module-level per-sample functions, under the factory's names or the short ones."""

    def named(*names: str) -> Any:
        return next((f for f in (getattr(module, name, None) for name in names) if inspect.isfunction(f)), None)

    init, before = named("init_function"), named("preprocess_function", "preprocess")
    after = named("postprocess_function", "postprocess")
    if init is None and before is None and after is None:
        return None
    install, unpack = named("install_packages"), named("unpack_dependencies")
    return handler_factory(init, before, after, install, unpack, collate_function=named("collate_function", "collate"))


def _own_classes(module: ModuleType) -> list[type]:
    return [c for c in vars(module).values() if inspect.isclass(c) and c.__module__ == module.__name__]
