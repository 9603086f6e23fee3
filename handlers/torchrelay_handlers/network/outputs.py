"""Splits a batch's output into one output per sample, so that no sample ever gets a part of another's.

Whatever is not known to belong to one sample is an error; the batch's samples then run alone (`Batcher`).
"""

import copy
import dataclasses
import enum
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any

import torch
from torch import Tensor

_DEEPEST = 8  # objects within objects; a parent's reference to itself is not followed for ever
_CONSTANTS = (bool, int, float, complex, str, bytes, enum.Enum, torch.dtype, torch.device, torch.layout, type(None))


class CannotSplitError(ValueError):
    """The output does not say which part belongs to which sample. `by_chance`: it does in a batch of another size."""

    def __init__(self, message: str, *, by_chance: bool = False) -> None:
        super().__init__(message)
        self.by_chance = by_chance


def split(output: Any, count: int) -> list[Any]:
    """One output per sample: of tensors and arrays along their first dimension, through anything that holds them.

    Tuples, mappings, dataclasses, named tuples and objects with attributes keep their type. A list is one output for each sample
    if it holds mappings or objects (torchvision's detectors) or no tensor at all; otherwise it is a list of batched outputs.
    None and constants inside one of them are the same for every sample. With one sample, an output that lacks the batch dimension
    is taken as the sample's own: networks that end in `squeeze()` drop it exactly then.

    Raises:
        CannotSplitError: the output's first dimension is not the batch, or its type is unknown, or it could mean two things.
    """
    if isinstance(output, _CONSTANTS):  # a constant alone does not answer to several samples
        return [output] if count == 1 else _refuse(output)
    return _split(output, count)


def _split(output: Any, count: int) -> list[Any]:
    if isinstance(output, Tensor) or _is_array(output):
        return _rows(output, count)
    if isinstance(output, _CONSTANTS):
        return [output] * count
    if isinstance(output, torch.Size):
        return [output] if count == 1 else _refuse(output)
    if isinstance(output, list | tuple):
        return _split_list(output, count)
    parts = parts_of(output)
    if parts is None or not _holds_tensor(output):
        return [output] if count == 1 else _refuse(output)
    columns = {name: _split(part, count) for name, part in parts.items()}
    return [with_parts(output, {name: column[row] for name, column in columns.items()}) for row in range(count)]


def _split_list(output: list[Any] | tuple[Any, ...], count: int) -> list[Any]:
    if not _holds_tensor(output) or (isinstance(output, list) and all(parts_of(item) is not None for item in output)):
        if isinstance(output, list) and len(output) == count:
            return list(output)
        return [output] if count == 1 else _refuse(output)
    if isinstance(output, list) and len(output) == count > 1 and len({_kind(item) for item in output}) == 1:
        raise CannotSplitError(
            f"the network answered a batch of {count} with a list of {count}: of outputs for one sample each, or for all?",
            by_chance=True,
        )
    columns = [_split(part, count) for part in output]
    make: Callable[[list[Any]], Any] = type(output)._make if hasattr(output, "_make") else type(output)
    return [make([column[row] for column in columns]) for row in range(count)]


def _rows(output: Any, count: int) -> list[Any]:
    shape = list(output.shape)
    if shape and shape[0] == count:
        return list(output.unbind(0)) if isinstance(output, Tensor) else list(output)
    if count == 1:
        return [output]
    raise CannotSplitError(f"the network answered {shape} to a batch of {count}: its first dimension must be {count}")


def _refuse(output: Any) -> list[Any]:
    kind = type(output)
    raise CannotSplitError(
        f"the network answered a batch with a {kind.__module__}.{kind.__qualname__}; which part belongs to which sample? "
        "return tensors whose first dimension is the batch, in tuples, dicts or dataclasses"
    )


def _is_array(output: Any) -> bool:
    return type(output).__module__ == "numpy" and type(output).__name__ == "ndarray"


def _kind(item: Any) -> str:
    return "tensor" if isinstance(item, Tensor) or _is_array(item) else "sequence" if isinstance(item, list | tuple) else "other"


def _holds_tensor(output: Any, depth: int = _DEEPEST) -> bool:
    if isinstance(output, Tensor) or _is_array(output):
        return True
    if depth == 0:
        return False
    inner = output if isinstance(output, list | tuple) else (parts_of(output) or {}).values()
    return any(_holds_tensor(item, depth - 1) for item in inner)


def parts_of(output: Any) -> dict[Any, Any] | None:
    """The parts of a mapping, a dataclass or an object with attributes, by name; None for anything else."""
    if isinstance(output, Mapping):
        return dict(output)
    if isinstance(output, (type, list, tuple, Tensor, *_CONSTANTS)) or callable(output):
        return None
    if dataclasses.is_dataclass(output):
        return {field.name: getattr(output, field.name) for field in dataclasses.fields(output)}
    slots = [name for kind in type(output).__mro__ for name in _slots(kind)]
    names = {name: getattr(output, name) for name in slots if hasattr(output, name)} | getattr(output, "__dict__", {})
    return names or None


def _slots(kind: type) -> tuple[str, ...]:
    slots = kind.__dict__.get("__slots__", ())
    return (slots,) if isinstance(slots, str) else tuple(name for name in slots if name not in ("__dict__", "__weakref__"))


def with_parts(output: Any, parts: dict[Any, Any]) -> Any:
    """An object like `output`, a result of `parts_of` its parts' names, with other parts."""
    if isinstance(output, Mapping):
        if type(output) is dict or not isinstance(output, MutableMapping):
            return parts
        changed = copy.copy(output)
        for name, part in parts.items():
            changed[name] = part
        return changed
    changed = copy.copy(output)
    for name, part in parts.items():
        object.__setattr__(changed, name, part)  # frozen dataclasses too
    return changed


def on_cpu(output: Any) -> Any:
    """A batch's output on the CPU, half precision widened: numpy and JSON know no bfloat16."""
    if isinstance(output, Tensor):
        output = output.cpu() if output.device.type != "cpu" else output
        return output.float() if output.dtype in (torch.float16, torch.bfloat16) else output
    if isinstance(output, tuple) and hasattr(output, "_make"):
        return output._make(on_cpu(item) for item in output)
    if isinstance(output, list | tuple) and not isinstance(output, torch.Size):
        return type(output)(on_cpu(item) for item in output)
    parts = parts_of(output) if _holds_tensor(output) else None
    return output if parts is None else with_parts(output, {name: on_cpu(part) for name, part in parts.items()})
