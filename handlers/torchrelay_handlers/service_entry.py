"""TorchServe loads this module: archives carry it as torchrelay_service.py, beside torchrelay_handlers/ and torchrelay.json.

TorchServe calls `handle(None, context)` once to load the model, and `handle(batch, context)` from then on
(pytorch/serve ts/model_loader.py, 0.12.0).
"""

from typing import Any

from torchrelay_handlers.adapters.torchserve import Service

_service = Service()


def handle(data: Any, context: Any) -> list[Any] | None:
    """One answer per element of `data`."""
    return _service(data, context)
