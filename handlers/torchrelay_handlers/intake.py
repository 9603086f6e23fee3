"""Turns requests into samples: decodes a body, finds the samples in it, preprocesses each; an error affects only its request."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torchrelay_handlers.answers import unforeseen
from torchrelay_handlers.bodies import parsers
from torchrelay_handlers.bodies.accepted import refuse_unsupported
from torchrelay_handlers.bodies.decode import decode, instances, refuse_too_many
from torchrelay_handlers.messages import NotedSample, Request
from torchrelay_handlers.network.batch import Sample
from torchrelay_handlers.problems import BadSample, Refusal
from torchrelay_handlers.steps import Steps

logger = logging.getLogger("torchrelay")

Wrap = Callable[[list[object]], object] | None
"""Makes one answer from the answers to several samples of one request; None when the request is one sample."""


class Intake:
    """Makes samples from requests, by a handler's `steps` and `options`."""

    def __init__(self, steps: Steps, options: Mapping[str, Any]) -> None:
        self.steps = steps
        self.most: int = options["max_instances"]

    def decoded(self, requests: Sequence[Request]) -> list[tuple[list[object], Wrap]] | None:
        """`samples_of` each request after `gather` has seen them all, refusals in their places; None when nothing gathers."""
        if self.steps.gather is None:
            return None
        decoded: list[tuple[list[object], Wrap]] = []
        for request in requests:
            try:
                decoded.append(self.samples_of(request))
            except Exception as error:
                decoded.append(([error if isinstance(error, Refusal) else unforeseen(request, error)], None))
        try:
            gathered = self.steps.gather([values for values, _ in decoded])
        except Exception as error:
            gathered = [[unforeseen(request, error)] for request in requests]
        return [(values, wrap) for values, (_, wrap) in zip(gathered, decoded, strict=True)]

    def samples_of(self, request: Request) -> tuple[list[object], Wrap]:
        """The samples of a request, still as they were sent.

        Raises:
            Refusal: the body cannot be understood, or holds too many samples.
        """
        refuse_unsupported(request, self.steps.takes)
        value = decode(request, self.most)
        if isinstance(value, parsers.Rows):
            return (list(value), None) if len(value) == 1 else (list(value), list)
        several = instances(value, self.most)
        if several is not None:
            return several, _predictions
        if self.steps.expand is not None:
            several = self.steps.expand(value)
            if several is not None:
                refuse_too_many(len(several), self.most)
                return several, list
        return [value], None

    def prepared(self, value: object, row: int | None) -> tuple[Sample, object]:
        """One sample as the network takes it, and preprocess's note on it; `row` is its place among several of one request.

        Raises:
            Refusal: preprocess refuses it or fails on it, or the network cannot take it.
        """
        try:
            if isinstance(value, Refusal):
                raise value
            prepared = self.steps.preprocess(value)
            if isinstance(prepared, NotedSample):
                return self.steps.network_input.of(prepared.sample), prepared.note
            return self.steps.network_input.of(prepared), None
        except Refusal as refusal:
            if row is not None:
                refusal.members["instance"] = row
            raise
        except MemoryError as error:
            raise Refusal(503, "out-of-memory", "there is not enough memory for this sample") from error
        except Exception as error:
            logger.warning("preprocess failed on a sample", exc_info=error)
            failed = BadSample(f"preprocess failed: {type(error).__name__}: {error}", kind="preprocess-failed")
            failed.members["instance"] = row
            raise failed from error


def _predictions(values: list[object]) -> object:
    return {"predictions": values}
