"""Runs handlers written for TorchServe itself, unchanged, with the isolation that TorchServe does not give them.

A handler that looks at `data[0]` only, or that raises for one bad request, fails its whole batch on TorchServe. Here
the whole batch is tried first; if it fails or returns another number of answers, its requests run one at a time.
"""

import contextlib
import copy
import logging
from collections.abc import Collection
from typing import Any

from torchrelay_handlers.adapters.client_headers import cancelled, lowered, request_id, with_fields
from torchrelay_handlers.answers import problem
from torchrelay_handlers.bodies.parsers import loads
from torchrelay_handlers.network.device import is_sticky
from torchrelay_handlers.problems import BadSample, Refusal
from torchrelay_handlers.resolve import TorchServeEntry

logger = logging.getLogger("torchrelay")


class Native:
    """Calls the author's `handle` so that one request cannot fail another."""

    def __init__(self, entry: TorchServeEntry) -> None:
        self.entry = entry
        self.one_by_one = False
        self.lost = False

    def answer(self, data: list[dict[str, Any]], context: Any, left: Collection[int] = ()) -> list[Any]:
        """Return what `handle` returned for each element of `data`, or an `Answer` with a problem document.

        `left`: the places of requests whose client has left. Sets `lost` when a CUDA error sticks and this process must end.
        """
        rows = [cancelled() if index in left else _decoded(row, index, context) for index, row in enumerate(data)]
        if any(isinstance(row, Refusal) for row in rows):
            return [
                problem(row) if isinstance(row, Refusal) else self._single(row, index, context) for index, row in enumerate(rows)
            ]
        data = [row for row in rows if not isinstance(row, Refusal)]
        if len(data) > 1 and not self.one_by_one:
            try:
                results = self.entry.handle(data, context)
            except Exception as error:
                self.lost = self.lost or is_sticky(error)
                logger.warning("the handler failed on a batch of %d; its requests are run one by one", len(data), exc_info=error)
            else:
                if isinstance(results, list) and len(results) == len(data):
                    return results
                logger.warning(
                    "the handler does not answer a batch with as many answers; from now on it gets one request at a time"
                )
                self.one_by_one = True
        return [self._single(row, index, context) for index, row in enumerate(data)]

    def _single(self, row: dict[str, Any], index: int, context: Any) -> Any:
        if self.lost:
            return problem(Refusal(503, "worker-lost", "the worker lost its device and is being replaced; try again"))
        try:
            results = self.entry.handle([row], context_of_one(context, index))
        except Refusal as refusal:
            return problem(refusal)
        except Exception as error:
            self.lost = self.lost or is_sticky(error)
            status = getattr(error, "error_code", 500)  # ts.utils.util.PredictionException carries one
            name = request_id(lowered(context, index), context.get_request_id(index))
            logger.error("request %s: the handler failed", name, exc_info=error)  # noqa: TRY400 - exc_info is that
            if 400 <= status <= 499:
                return problem(BadSample(str(getattr(error, "message", error)), status=status))
            return problem(Refusal(500, "handler-failed", "the handler failed on this request; the server's log says why"))
        if isinstance(results, list) and len(results) == 1:
            return results[0]
        logger.error("the handler answered one request with %s", type(results).__name__)
        return problem(Refusal(500, "handler-failed", "the handler must return a list with one answer per request"))


def _decoded(row: dict[str, Any], index: int, context: Any) -> dict[str, Any] | Refusal:
    """Parse JSON, decode text and split a form into fields, as TorchServe does unless decode_input_request is false."""
    try:
        row = with_fields(row, context.get_all_request_header(index))
    except Refusal as refusal:
        return refusal
    for name, value in row.items():
        if isinstance(value, bytearray | bytes):
            part_headers = context.get_all_request_header(index).get(name)
            content_type = (part_headers.get("content-type") if isinstance(part_headers, dict) else None) or ""
            with contextlib.suppress(ValueError):
                if content_type == "application/json":
                    return {**row, name: loads(value)}
                if content_type.startswith("text"):
                    return {**row, name: value.decode()}
    return row


def context_of_one(context: Any, index: int) -> Any:
    """A view of the context with only request `index` of the batch; statuses and headers set on it reach the real context."""
    view = copy.copy(context)
    processors = getattr(context, "request_processor", None)
    if isinstance(processors, list):
        view.request_processor = [processors[index]]
    view.request_ids = {0: context.get_request_id(index)}
    return view
