"""Tensors in a file without a pickle: the safetensors format (https://huggingface.co/docs/safetensors), read and written.

Imports the standard library alone: the side that reads it may have neither torch nor safetensors.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BYTES = {"BOOL": 1, "U8": 1, "I8": 1, "I16": 2, "I32": 4, "I64": 8, "F16": 2, "BF16": 2, "F32": 4, "F64": 8}
"""Bytes per number, by the format's names of types."""
MAX_HEADER = 32 << 20
MAX_NAME = 400


@dataclass(frozen=True)
class Entry:
    """One tensor: where its bytes lie, `start` to `end` from the file's beginning."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def write(path: Path, tensors: Iterable[tuple[str, str, tuple[int, ...], bytes]]) -> None:
    """Write name, type, shape and bytes (little endian, the last dimension fastest) of each tensor."""
    header: dict[str, Any] = {}
    blobs = []
    offset = 0
    for name, dtype, shape, blob in tensors:
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + len(blob)]}
        offset += len(blob)
        blobs.append(blob)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.writelines(blobs)


def read(path: Path) -> dict[str, Entry]:
    """Every tensor's place, looked at as a stranger's: nothing overlaps, nothing is left over, and sizes fit the shapes.

    Raises:
        ValueError: the file is not such a file.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(8)
        length = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
        if not 2 <= length <= min(size - 8, MAX_HEADER):
            raise ValueError("its header has no legal length")
        text = file.read(length)
    try:
        header = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("its header is not JSON") from None
    if not isinstance(header, dict):
        raise ValueError("its header is not an object")  # noqa: TRY004 -- of a file's content, not of an argument
    header.pop("__metadata__", None)
    found = {name: _entry(name, told, 8 + length) for name, told in header.items()}
    place = 8 + length
    for entry in sorted(found.values(), key=lambda entry: (entry.start, entry.end)):
        if entry.start != place:
            raise ValueError("its tensors overlap or leave gaps")
        place = entry.end
    if place != size:
        raise ValueError("its tensors are not all of it")
    return found


def _entry(name: str, told: Any, base: int) -> Entry:
    if not name.isprintable() or not name or len(name) > MAX_NAME:
        raise ValueError("it names a tensor in an illegal way")
    try:
        dtype, shape, (start, end) = told["dtype"], told["shape"], told["data_offsets"]
        width = BYTES[dtype]
    except (TypeError, KeyError, ValueError):
        raise ValueError(f"its tensor {name[:80]} is not described") from None
    numbers = [*shape, start, end] if isinstance(shape, list) else [-1]
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise ValueError(f"its tensor {name[:80]} has an illegal shape")
    if end - start != width * math.prod(shape):
        raise ValueError(f"its tensor {name[:80]} has another size than its shape")
    return Entry(dtype, tuple(shape), base + start, base + end)
