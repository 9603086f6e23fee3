"""Many samples through one network: grouped by shape, stacked, split again; a failure is narrowed to its sample."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from torchrelay_handlers.bodies.tensors import name_of
from torchrelay_handlers.network.device import is_out_of_memory, is_sticky
from torchrelay_handlers.network.outputs import CannotSplitError, split
from torchrelay_handlers.network.padding import Padding
from torchrelay_handlers.problems import WorkerLost

logger = logging.getLogger("torchrelay")

Sample = Any
"""What preprocess returns, as tensors: one Tensor, a tuple of them (positional) or a dict of them (by keyword)."""


@dataclass(frozen=True, slots=True)
class Failure:
    """The network failed on this sample, alone."""

    error: Exception
    signature: object


def signature(sample: Sample) -> object:
    """Samples of equal signature can share a batch: structure, shapes and dtypes."""
    if isinstance(sample, Tensor):
        return (tuple(sample.shape), sample.dtype)
    if isinstance(sample, Mapping):
        return tuple((name, signature(sample[name])) for name in sorted(sample))
    return tuple(signature(item) for item in sample)


def stack(samples: Sequence[Sample]) -> Sample:
    """Samples of one signature as a batch: a first dimension is added to every tensor."""
    first = samples[0]
    if isinstance(first, Tensor):
        return torch.stack(list(samples))
    if isinstance(first, Mapping):
        return {name: torch.stack([sample[name] for sample in samples]) for name in first}
    return tuple(torch.stack(column) for column in zip(*samples, strict=True))


def moved(batch: Any, device: torch.device, *, channels_last: bool = False) -> Any:
    """A stacked batch on the network's device."""
    if isinstance(batch, Tensor):
        if device.type != "cpu":
            batch = batch.to(device, non_blocking=True)
        return batch.contiguous(memory_format=torch.channels_last) if channels_last and batch.dim() == 4 else batch
    if isinstance(batch, Mapping):
        return {name: moved(item, device, channels_last=channels_last) for name, item in batch.items()}
    if isinstance(batch, tuple | list):
        return tuple(moved(item, device, channels_last=channels_last) for item in batch)
    return batch


def described(key: object) -> object:
    """A batch signature as JSON: shape and dtype, per input."""
    if isinstance(key, tuple) and len(key) == 2 and isinstance(key[1], torch.dtype):
        return {"shape": list(key[0]), "dtype": name_of(key[1])}
    if isinstance(key, tuple):
        return [described(item) for item in key]
    return key


class Batcher:
    """Runs samples through `forward` in batches of at most `limit`, one result or `Failure` per sample, in order.

    When a batch fails it is run again in halves, down to the samples at fault; so a sample that the network cannot
    take costs its neighbours time, never their answers, and a batch too large for the memory becomes two. A network
    that takes no batch above some size (exported with a fixed one, say) is noticed, and `limit` lowered for good.
    """

    def __init__(
        self,
        forward: Callable[[Sample], Any],
        limit: int,
        collate: Callable[[list[Any]], Any] | None = None,
        padding: Padding | None = None,
    ) -> None:
        self.forward = forward
        self.limit = limit
        self.collate = collate
        self.padding = padding
        self.signature = padding.signature if padding is not None else signature
        self.stack = collate or (padding.stack if padding is not None else stack)
        self.succeeded: set[object] = set()

    def run(self, samples: Sequence[Sample]) -> list[Any]:
        """One output or `Failure` per sample.

        Raises:
            WorkerLost: the device can run nothing any more.
        """
        results: list[Any] = [None] * len(samples)
        groups: dict[object, list[int]] = {}
        if self.collate is not None:
            groups[None] = list(range(len(samples)))
        elif len(samples) == 1:
            groups[self.signature(samples[0])] = [0]
        else:
            for row, sample in enumerate(samples):
                groups.setdefault(self.signature(sample), []).append(row)
        for key, rows in groups.items():
            at = 0
            while at < len(rows):
                chunk = rows[at : at + self.limit]
                at += len(chunk)
                self._run_chunk(key, chunk, samples, results)
        return results

    def _run_chunk(self, key: object, rows: list[int], samples: Sequence[Sample], results: list[Any]) -> None:
        error = self._attempt(key, rows, samples, results)
        if error is None:
            return
        if len(rows) == 1:
            results[rows[0]] = Failure(error, key if self.collate is None else None)
            return
        largest, failed = 0, False
        pending = [rows[: len(rows) // 2], rows[len(rows) // 2 :]]
        while pending:
            part = pending.pop()
            problem = self._attempt(key, part, samples, results)
            if problem is None:
                largest = max(largest, len(part))
            elif len(part) == 1:
                failed = True
                results[part[0]] = Failure(problem, key if self.collate is None else None)
            else:
                pending += [part[: len(part) // 2], part[len(part) // 2 :]]
        by_chance = isinstance(error, CannotSplitError) and error.by_chance
        if not failed and not is_out_of_memory(error) and not by_chance:
            logger.warning("batches of %d failed, of %d succeed; that is the limit from now on", len(rows), largest, exc_info=error)
            self.limit = largest

    def _attempt(self, key: object, rows: list[int], samples: Sequence[Sample], results: list[Any]) -> Exception | None:
        chosen = [samples[row] for row in rows]
        try:
            outputs = split(self.forward(self.stack(chosen)), len(rows))
            if self.padding is not None and self.collate is None:
                outputs = self.padding.cut(outputs, chosen)
        except Exception as error:
            if is_sticky(error):
                raise WorkerLost(str(error)) from error
            if is_out_of_memory(error) and torch.cuda.is_available():
                torch.cuda.empty_cache()
            return error
        for row, output in zip(rows, outputs, strict=True):
            results[row] = output
        if self.collate is None and len(self.succeeded) < 64:
            self.succeeded.add(key)
        return None
