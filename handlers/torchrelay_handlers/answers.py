"""Turns the network's outputs into answers: JSON or the author's own bytes, or a problem document for the sample at fault."""

import logging
from collections.abc import Sequence
from typing import Any

from torchrelay_handlers.bodies import json_out
from torchrelay_handlers.messages import Answer, Request
from torchrelay_handlers.network import device
from torchrelay_handlers.network.batch import Batcher, Failure, described
from torchrelay_handlers.problems import CONTENT_TYPE, BadSample, Refusal
from torchrelay_handlers.steps import AnswerContext, Steps

logger = logging.getLogger("torchrelay")


def problem(refusal: Refusal, headers: dict[str, str] | None = None) -> Answer:
    """A refusal as an answer."""
    return Answer(refusal.status, json_out.encode(refusal.document()), CONTENT_TYPE, headers or {})


def unforeseen(request: Request, error: Exception) -> Refusal:
    """Log an unforeseen error and return the refusal of the request that raised it."""
    logger.error("request %s failed", request.id, exc_info=error)
    return Refusal(500, "internal", "the server failed on this request; its log says why")


class Answers:
    """Makes answers from the network's outputs, with a handler's `steps`."""

    def __init__(self, steps: Steps, batcher: Batcher, *, refuse_nan: bool) -> None:
        self.steps = steps
        self.batcher = batcher
        self.refuse_nan = refuse_nan

    def of(self, results: Sequence[Any], notes: Sequence[object], wrap: Any, accept: str) -> Answer:
        """One request's answer, made from its samples' results; `wrap` as in `intake.Wrap`.

        Raises:
            Refusal: one of its samples failed, or its answer has no JSON form.
        """
        values: list[object] = []
        for row, result in enumerate(results):
            try:
                value = self._postprocess(result)
                if self.steps.render is not None:
                    value = self.steps.render(value, AnswerContext(accept, wrap is None, notes[row]))
            except Refusal as refusal:
                if wrap is not None:
                    refusal.members["instance"] = row
                raise
            values.append(value)
        value = values[0] if wrap is None else wrap(values)
        if isinstance(value, json_out.Raw):
            return Answer(200, value.body, value.content_type)
        try:
            return Answer(200, json_out.encode(value, refuse_nan=self.refuse_nan))
        except json_out.NotFinite as error:
            raise Refusal(422, "not-finite", f"{error}, which this model refuses") from None
        except TypeError as error:
            raise Refusal(500, "bad-answer", "the handler returned a value that has no JSON form") from error

    def _postprocess(self, result: Any) -> object:
        if isinstance(result, Failure):
            raise self._failed(result)
        try:
            return self.steps.postprocess(result)
        except Refusal:
            raise
        except Exception as error:
            raise Refusal(422, "postprocess-failed", f"postprocess failed: {type(error).__name__}: {error}") from error

    def _failed(self, failure: Failure) -> Refusal:
        """The sender's fault if samples of other shapes succeeded and this shape never did; otherwise the server's."""
        seen = self.batcher.succeeded
        if failure.signature is not None and seen and failure.signature not in seen and not device.is_out_of_memory(failure.error):
            return BadSample(
                "the network does not accept a sample of this shape and dtype",
                expected=[described(key) for key in list(seen)[:3]],
                got=described(failure.signature),
                kind="bad-tensor",
            )
        refusal = Refusal(500, "forward-failed", "the network failed on this sample; the server's log says why")
        if device.is_out_of_memory(failure.error):
            refusal = Refusal(503, "out-of-memory", "there is not enough memory for this sample")
        refusal.__cause__ = failure.error
        return refusal
