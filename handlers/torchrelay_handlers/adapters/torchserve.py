"""TorchServe 0.12: turns its list of dicts into Requests, and returns one answer per element, with its own status and content type.

Stock TorchServe answers 503 to a whole batch for any exception and for a list of another length (ts/service.py), so
`Service.__call__` raises only what goes wrong while the model is loaded.
"""

import logging
import os
import threading
from collections.abc import Callable, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any, Protocol

from torchrelay_handlers import resolve, settings, setup_functions, system
from torchrelay_handlers.adapters import client_headers, worker
from torchrelay_handlers.adapters.native import Native
from torchrelay_handlers.answers import problem
from torchrelay_handlers.handler import Handler
from torchrelay_handlers.messages import Answer, Request
from torchrelay_handlers.network import device
from torchrelay_handlers.sagemaker import SageMakerHandler

logger = logging.getLogger("torchrelay")
NOBODY = problem(client_headers.cancelled())
"""The answer to a request whose client has left."""


class Context(Protocol):
    """The part of ts.context.Context that is used."""

    manifest: dict[str, Any] | None

    @property
    def system_properties(self) -> dict[str, Any]: ...  # noqa: D102 -- TorchServe's own methods
    def get_all_request_header(self, idx: int) -> dict[str, Any]: ...  # noqa: D102 -- TorchServe's own methods
    def get_request_id(self, idx: int = 0) -> str | None: ...  # noqa: D102 -- TorchServe's own methods
    def set_response_status(self, code: int = 200, phrase: str = "", idx: int = 0) -> None: ...  # noqa: D102 -- TorchServe's own methods
    def set_response_header(self, idx: int, key: str, value: str) -> None: ...  # noqa: D102 -- TorchServe's own methods


def end_process() -> None:
    """End this worker, a moment after its last answers have left; TorchServe starts another."""
    threading.Timer(0.2, os._exit, (1,)).start()


class Service:
    """A TorchServe entry point: called with None to load the model, then with one list per batch."""

    def __init__(self, handler: Handler | None = None, end: Callable[[], None] = end_process) -> None:
        self.handler = handler
        self.served: Handler | SageMakerHandler | Native | None = None
        self.end = end

    @property
    def loaded(self) -> bool:
        """Whether the model is loaded."""
        return self.served is not None

    def __call__(self, data: list[dict[str, Any]] | None, context: Any) -> list[Any] | None:
        """One body per element of `data`, in order."""
        served = self.served if data is not None else None
        if served is None:
            served = self.initialize(context)
        if data is None:
            return None
        headers = [client_headers.lowered(context, index) for index in range(len(data))]
        left = {index for index, sent in enumerate(headers) if client_headers.is_cancelled(sent)}
        if isinstance(served, Native):
            answers = served.answer(data, context, left)
        else:
            waiting = (request_of(row, index, headers[index], context) for index, row in enumerate(data) if index not in left)
            answered = iter(served.answer(list(waiting)) if len(left) < len(data) else ())
            answers = [NOBODY if index in left else next(answered) for index in range(len(data))]
        if served.lost:
            self.end()
        return [deliver(answer, index, context) for index, answer in enumerate(answers)]

    def initialize(self, context: Context) -> Handler | SageMakerHandler | Native:
        """Load the model that torchrelay.json beside the handler describes; without that file, the one in the manifest."""
        if not worker.speed_up(getattr(context, "metrics", None)):
            logger.debug("this is not the worker of TorchServe 0.12; it is left as it is")
        model_dir = Path(context.system_properties["model_dir"])
        gpu_id = context.system_properties.get("gpu_id")
        if self.handler is not None and not (model_dir / settings.FILE).is_file():
            weights = ((context.manifest or {}).get("model") or {}).get("serializedFile")
            batch_size = context.system_properties.get("batch_size") or 1
            model = settings.Settings("own", weights=weights, device="auto", batch_size=batch_size)
        else:
            model = settings.read(model_dir)
        config = system.read(getattr(context, "model_yaml_config", None))
        system.unpack(config.extra_files, model_dir)
        if config.max_gpu_memory_mb is not None:
            device.cap_memory(device.choose(model.device, gpu_id), config.max_gpu_memory_mb)
        handler = self.handler or resolve.find(model, model_dir)
        if isinstance(handler, Handler):
            functions = handler.install_packages, handler.unpack_dependencies
            if setup_functions.wanted_at_start(model.setup_at_start):
                setup_functions.set_up(*functions, model_dir)
            setup_functions.remind(*functions, model_dir)
        if isinstance(handler, resolve.TorchServeEntry):
            handler.initialize(context)
            self.served = Native(handler)
        else:
            if isinstance(handler, Handler):
                _check_fetch_time(handler.options, getattr(context, "model_yaml_config", None))
            handler.start(model, model_dir, gpu_id)
            self.served = handler
        return self.served


def _check_fetch_time(options: Mapping[str, Any], config: Any) -> None:
    """Refuse a time for fetching URLs that leaves the network too little of the batch's time.

    Raises:
        ValueError: it is more than a quarter of responseTimeout.
    """
    response_s = config.get("responseTimeout") if isinstance(config, Mapping) else None
    fetch_s: float = options.get("url_timeout_s", 0)
    if options.get("url_hosts") and isinstance(response_s, int | float) and fetch_s > response_s / 4:
        raise ValueError(
            f"handler_args.url_timeout_s: {fetch_s:g} s is more than a quarter of timeouts.response_s ({response_s:g} s), "
            "after which the worker is restarted; lower the one or raise the other"
        )


def request_of(row: dict[str, Any], index: int, headers: dict[str, Any], context: Context) -> Request:
    """TorchServe's dict as a Request. `headers`: with names in lower case.

    A body is under `body`, a form's fields are under their names. JSON bodies arrive parsed, text as str, all else as a
    bytearray; a JSON body that arrives as bytes is one that TorchServe could not parse (ts/protocol/otf_message_handler.py).
    """
    content_type = client_headers.own_type(headers)
    name = "body" if "body" in row else next(iter(row)) if len(row) == 1 else None
    if name is None:
        body: object = {key: bytes(value) if isinstance(value, bytearray) else value for key, value in row.items()} or b""
    else:
        body = row[name]
        part_headers = headers.get(name.lower())
        of_part = (part_headers.get("content-type") if isinstance(part_headers, dict) else None) or ""
        content_type = (content_type or of_part) if name == "body" else of_part  # the part's content type lacks the charset
    if isinstance(body, bytearray | memoryview):
        body = bytes(body)
    accept, request_id = _text(headers.get("accept")), client_headers.request_id(headers, context.get_request_id(index))
    encoding = _text(headers.get("content-encoding"))
    return Request(body, content_type, accept, request_id, parsed=not isinstance(body, bytes), content_encoding=encoding)


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def deliver(answer: Any, index: int, context: Context) -> Any:
    """Set the answer's status and headers in TorchServe; return its body. Other handlers' answers pass unchanged."""
    if not isinstance(answer, Answer):
        return answer
    if answer.content_type:
        context.set_response_header(index, "content-type", answer.content_type)
    for name, value in answer.headers.items():
        context.set_response_header(index, name, value)
    if answer.status != 200:
        context.set_response_status(answer.status, HTTPStatus(answer.status).phrase, index)
    return answer.body
