"""Starts the handler of a model directory in this process, the way a TorchServe worker does."""

from pathlib import Path

from torchrelay.model.model import load_model
from torchrelay_handlers import Handler, resolve
from torchrelay_handlers.settings import Settings


def start_handler(folder: Path) -> Handler:
    """Return the handler with its network loaded."""
    model = load_model(folder)
    settings = Settings(
        model.handler,
        handler_args=model.handler_args,
        model_file=model.model_file,
        init_args=model.init_args,
        weights=model.weights.uri,
    )
    handler = resolve.find(settings, folder)
    assert isinstance(handler, Handler)
    handler.start(settings, folder)
    return handler
