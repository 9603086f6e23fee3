"""The handler of a model directory, as a worker starts it, in this process."""

from pathlib import Path

from torchrelay.model.model import load_model
from torchrelay_handlers import Handler, resolve
from torchrelay_handlers.settings import Settings


def started(folder: Path) -> Handler:
    """Return it with its network loaded."""
    model = load_model(folder)
    told = Settings(
        model.handler,
        handler_args=model.handler_args,
        model_file=model.model_file,
        init_args=model.init_args,
        weights=model.weights.uri,
    )
    handler = resolve.find(told, folder)
    assert isinstance(handler, Handler)
    handler.start(told, folder)
    return handler
