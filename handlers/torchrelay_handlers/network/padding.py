"""Samples of unequal shapes in one batch, when the author says that the network may see padding (`pad` in handler_args)."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from torchrelay_handlers.network.outputs import parts_of, with_parts


class Padding:
    """Fills samples up at the end of every dimension, to the largest of their batch.

    `value` fills; a mapping gives one per named input (`{input_ids: 0, attention_mask: 0}`), 0 for those it leaves out.
    With `cut`, an output whose first dimension is as long as the padded one is cut to the sample's own length: one
    answer per token, say. An answer is then the same whatever the neighbours are, if the network ignores padding.
    """

    def __init__(self, value: float | Mapping[str, float], *, cut: bool = False) -> None:
        self.value = value
        self.cuts = cut

    def signature(self, sample: Any) -> object:
        """Samples of equal signature can share a batch: structure, number of dimensions (each None) and dtypes."""
        if isinstance(sample, Tensor):
            return ((None,) * sample.dim(), sample.dtype)
        if isinstance(sample, Mapping):
            return tuple((name, self.signature(sample[name])) for name in sorted(sample))
        return tuple(self.signature(item) for item in sample)

    def stack(self, samples: Sequence[Any]) -> Any:
        """Samples of one signature as a batch: a first dimension is added to every tensor."""
        first = samples[0]
        if isinstance(first, Tensor):
            return self._column(samples, None)
        if isinstance(first, Mapping):
            return {name: self._column([sample[name] for sample in samples], name) for name in first}
        return tuple(self._column(column, None) for column in zip(*samples, strict=True))

    def _column(self, tensors: Sequence[Tensor], name: str | None) -> Tensor:
        shape = [max(sizes) for sizes in zip(*(tensor.shape for tensor in tensors), strict=True)]
        if all(list(tensor.shape) == shape for tensor in tensors):
            return torch.stack(list(tensors))
        value = self.value.get(name or "", 0) if isinstance(self.value, Mapping) else self.value
        batch = tensors[0].new_full((len(tensors), *shape), value)
        for row, tensor in enumerate(tensors):
            batch[row][tuple(slice(size) for size in tensor.shape)] = tensor
        return batch

    def cut(self, outputs: list[Any], samples: Sequence[Any]) -> list[Any]:
        """The outputs without the part that belongs to padding."""
        lengths = [_length(sample) for sample in samples]
        if not self.cuts or None in lengths or len(set(lengths)) == 1:
            return outputs
        longest = max(length for length in lengths if length is not None)
        return [_cut(output, length, longest) for output, length in zip(outputs, lengths, strict=True)]


def _length(sample: Any) -> int | None:
    """The size of the first dimension of a sample's first tensor."""
    tensor = sample if isinstance(sample, Tensor) else next(iter(sample.values() if isinstance(sample, Mapping) else sample))
    return tensor.shape[0] if tensor.dim() else None


def _cut(output: Any, length: int | None, padded: int) -> Any:
    if isinstance(output, Tensor):
        return output[:length] if output.dim() and output.shape[0] == padded else output
    if isinstance(output, tuple) and hasattr(output, "_make"):
        return output._make(_cut(item, length, padded) for item in output)
    if isinstance(output, list | tuple):
        return type(output)(_cut(item, length, padded) for item in output)
    parts = parts_of(output)
    return output if parts is None else with_parts(output, {name: _cut(item, length, padded) for name, item in parts.items()})
