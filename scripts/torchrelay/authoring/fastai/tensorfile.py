"""Reads and writes tensors without a pickle, in the safetensors format (https://huggingface.co/docs/safetensors).

Needs no third-party package: the side that reads may have neither torch nor safetensors.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torchrelay.core import json_text

BYTES = {"BOOL": 1, "U8": 1, "I8": 1, "I16": 2, "I32": 4, "I64": 8, "F16": 2, "BF16": 2, "F32": 4, "F64": 8}
"""Bytes per number, by the format's names of types."""
MAX_HEADER = 32 << 20
MAX_NAME = 400


@dataclass(frozen=True)
class Entry:
    """One tensor; its bytes are at `start` to `end`, counted from the beginning of the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def write(path: Path, tensors: Iterable[tuple[str, str, tuple[int, ...], bytes]]) -> None:
    """Write each tensor: name, type, shape and bytes (little endian, row-major)."""
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
    """Return where every tensor is. The file is untrusted: tensors must not overlap or leave gaps, and sizes must fit the shapes.

    Raises:
        ValueError: the file is not valid.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(8)
        length = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
        if not 2 <= length <= min(size - 8, MAX_HEADER):
            raise ValueError("its header has an illegal length")
        text = file.read(length)
    try:
        header = json_text.parse_untrusted(text)
    except ValueError:
        raise ValueError("its header is not JSON") from None
    if not isinstance(header, dict):
        raise ValueError("its header is not an object")  # noqa: TRY004 -- a file's content is wrong, not an argument's type
    header.pop("__metadata__", None)
    entries = {name: _entry(name, described, 8 + length) for name, described in header.items()}
    place = 8 + length
    for entry in sorted(entries.values(), key=lambda entry: (entry.start, entry.end)):
        if entry.start != place:
            raise ValueError("its tensors overlap or leave gaps")
        place = entry.end
    if place != size:
        raise ValueError("it holds more or less than its tensors")
    return entries


def _entry(name: str, described: Any, base: int) -> Entry:
    if not name.isprintable() or not name or len(name) > MAX_NAME:
        raise ValueError("a tensor has an illegal name")
    try:
        dtype, shape, (start, end) = described["dtype"], described["shape"], described["data_offsets"]
        width = BYTES[dtype]
    except (TypeError, KeyError, ValueError):
        raise ValueError(f"the description of tensor {name[:80]} is incomplete") from None
    numbers = [*shape, start, end] if isinstance(shape, list) else [-1]
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise ValueError(f"tensor {name[:80]} has an illegal shape")
    if end - start != width * math.prod(shape):
        raise ValueError(f"the size of tensor {name[:80]} does not fit its shape")
    return Entry(dtype, tuple(shape), base + start, base + end)
