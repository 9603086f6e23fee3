"""Turns Python values into tensors of the type and shape that a network takes, or refuses with a message that names both."""

import io
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from torchrelay_handlers.problems import BadSample

try:
    import numpy as np
except ImportError:  # torch works without numpy; lists are then converted by torch, several times slower
    np = None  # type: ignore[assignment] # the optional module is missing

DTYPES: dict[str, torch.dtype] = {
    name: getattr(torch, name)
    for name in ("float16", "bfloat16", "float32", "float64", "uint8", "int8", "int16", "int32", "int64", "bool")
}
MOST_LISTS = 300_000  # of one sample: each takes 2 us to convert (numpy 2), and a picture of 512 x 512 x 3 as JSON has 262657
_KINDS = "biuf"  # numpy's kinds of numbers: bool, int, unsigned, float


def name_of(dtype: torch.dtype) -> str:
    """`float32` for torch.float32."""
    return str(dtype).removeprefix("torch.")


def own_dtype(model: object) -> torch.dtype | None:
    """The dtype that a network wants its numbers in: that of its floating-point weights.

    None (leave integers alone) when it looks things up by index (an embedding) or has no such weights.
    """
    if not isinstance(model, nn.Module):
        return None
    for module in model.modules():
        kind = getattr(module, "original_name", type(module).__name__)  # TorchScript keeps the class's name there
        if kind in ("Embedding", "EmbeddingBag"):
            return None
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), None)


def npy_file(tensor: Tensor) -> bytes:
    """The tensor as an .npy file.

    Raises:
        RuntimeError: numpy is not installed.
    """
    if np is None:
        raise RuntimeError("numpy, which writes .npy files, is not installed")
    buffer = io.BytesIO()
    np.save(buffer, tensor.numpy(), allow_pickle=False)
    return buffer.getvalue()


class NetworkInput:
    """The network's requirements on one sample: `shape` (None: any; a None in it: a free size) and `dtype` (None: any)."""

    def __init__(self, shape: list[int | None] | None, dtype: torch.dtype | None) -> None:
        self.shape = shape
        self.dtype = dtype

    def expected(self) -> dict[str, object]:
        """The `expected` member of a problem document."""
        members: dict[str, object] = {}
        if self.shape is not None:
            members["shape"] = self.shape
        members["dtype"] = name_of(self.dtype) if self.dtype is not None else "any number"
        return members

    def of(self, value: object) -> Any:
        """The value that preprocess returned, as a tensor, or a tuple or dict of tensors when the network takes several inputs.

        Raises:
            BadSample: it is not numbers, has another shape, or is not exact in the dtype.
        """
        if isinstance(value, Tensor):
            return self._shaped(self._cast(value))  # NaN, too: an author's preprocess may mean it
        if isinstance(value, tuple) and any(isinstance(item, Tensor) for item in value):
            return tuple(self._cast(item) if isinstance(item, Tensor) else self.numbers(item) for item in value)
        if isinstance(value, Mapping) and any(isinstance(item, Tensor) for item in value.values()):
            return {str(k): self._cast(item) if isinstance(item, Tensor) else self.numbers(item) for k, item in value.items()}
        if isinstance(value, list) and value and all(isinstance(item, Tensor) for item in value):
            return tuple(self._cast(item) for item in value)
        return self._shaped(self.numbers(value))

    def numbers(self, value: object) -> Tensor:
        """Finite numbers in nested lists (or a numpy array) as a tensor. Strings, booleans, null and ragged lists are refused."""
        if not isinstance(value, list | tuple | int | float) and not hasattr(value, "__array__"):
            raise self.refuse(f"numbers are expected, not {_type_name(value)}", _type_name(value))
        self._refuse_many_lists(value)
        tensor = _by_numpy(self, value) if np is not None else _by_torch(self, value)
        if self.dtype != torch.bool and (tensor.dtype == torch.bool or _holds_booleans(value)):
            raise self.refuse("numbers are expected, not true or false", "booleans")
        cast = self._cast(tensor)
        narrowed = cast.dtype in (torch.float16, torch.bfloat16) or np is None  # _by_numpy checks the rest, three times faster
        if narrowed and cast.is_floating_point() and not bool(cast.isfinite().all()):
            raise self.not_finite()
        return cast

    def _refuse_many_lists(self, value: object) -> None:
        """A body of 6 MiB can hold millions of lists of one number, which take seconds to convert."""
        shape = self.shape or []
        most = max(MOST_LISTS, 2 * math.prod(size or 1 for size in shape[:-1]))
        count, level = 0, [value]
        while level:
            count += len(level)
            if count > most:
                raise BadSample(f"more than {most} lists in one sample", expected=self.expected(), status=413, kind="bad-tensor")
            level = [item for row in level if isinstance(row, list) and row and isinstance(row[0], list) for item in row]

    def _cast(self, tensor: Tensor) -> Tensor:
        wanted = self.dtype
        if wanted is None:
            return tensor.float() if tensor.dtype == torch.float64 else tensor
        if tensor.dtype == wanted:
            cast = tensor
        elif wanted.is_floating_point:
            cast = tensor.to(wanted)
        else:
            cast = tensor.to(wanted)
            if not torch.equal(cast.to(tensor.dtype), tensor):
                raise self.refuse(f"the numbers are not exact as {name_of(wanted)}", name_of(tensor.dtype))
        return cast

    def _shaped(self, cast: Tensor) -> Tensor:
        shape = self.shape
        if shape is not None and (
            cast.dim() != len(shape) or any(want is not None and want != got for want, got in zip(shape, cast.shape, strict=True))
        ):
            raise self.refuse(f"the sample has shape {list(cast.shape)}, the model takes {shape}", {"shape": list(cast.shape)})
        return cast

    def not_finite(self) -> BadSample:
        """The refusal of NaN and Infinity, and of numbers that become Infinity in the network's dtype."""
        return self.refuse(f"a number is NaN, infinite or too large for {name_of(self.dtype or torch.float32)}", "not finite")

    def refuse(self, detail: str, got: object) -> BadSample:
        """A refusal that names the expected input; `got` is a word for a type, or {"shape": ...}."""
        return BadSample(detail, expected=self.expected(), got=got if isinstance(got, dict) else {"type": got}, kind="bad-tensor")


def _holds_booleans(value: object) -> bool:
    """Whether true or false is among the numbers of nested lists, which numpy and torch read as 1 and 0 (13 us for 512 numbers)."""
    if not isinstance(value, list | tuple):
        return False
    kinds = set(map(type, value))
    return bool in kinds or (not kinds.isdisjoint((list, tuple)) and any(map(_holds_booleans, value)))


def _type_name(value: object) -> str:
    """A JSON type in JSON's own words."""
    if isinstance(value, bytes | bytearray):
        return "bytes (is the content type right?)"
    names = {type(None): "null", bool: "a boolean", str: "a string", dict: "an object"}
    return names.get(type(value), type(value).__name__)


def _by_numpy(wanted: NetworkInput, value: Any) -> Tensor:
    try:
        array = np.asarray(value)
    except (ValueError, OverflowError, TypeError, RecursionError):
        raise wanted.refuse(
            "the lists are ragged, empty in places or too deep: not one rectangular array", "ragged lists"
        ) from None
    if array.dtype.kind == "O" and array.size and all(type(item) in (int, float) for item in array.flat):
        try:  # integers beyond 64 bits
            array = array.astype(np.float64)
        except OverflowError:
            raise wanted.refuse("a number is too large", "a number too large") from None
    if array.dtype.kind not in _KINDS:
        raise wanted.refuse("numbers are expected, but a string, null or object is among them", "mixed values")
    if array.size == 0:
        raise wanted.refuse("the sample contains no numbers", "an empty list")
    if array.dtype == np.float64 and (wanted.dtype is None or wanted.dtype == torch.float32):
        with np.errstate(over="ignore"):
            array = array.astype(np.float32)
    elif array.dtype.kind == "u" and array.dtype.itemsize > 1:
        array = array.astype(np.float64)  # torch has little for unsigned integers; 2**53 and up are rare in requests
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise wanted.not_finite()
    array = np.ascontiguousarray(array) if array.ndim else array
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def _by_torch(wanted: NetworkInput, value: Any) -> Tensor:
    try:
        tensor = torch.tensor(value)
    except (ValueError, TypeError, RuntimeError, OverflowError, RecursionError) as error:
        raise wanted.refuse(f"not one rectangular array of numbers: {error}", "mixed or ragged values") from None
    if tensor.numel() == 0:
        raise wanted.refuse("the sample contains no numbers", "an empty list")
    return tensor
