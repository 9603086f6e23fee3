"""The header of a safetensors file, checked against the file's size. Imports nothing of this package: the command reads it too.

Format: https://huggingface.co/docs/safetensors/index#format.
"""

import json
import math
import struct
from pathlib import Path
from typing import Any

_LONGEST = 100_000_000  # bytes; the limit of the safetensors library


class DamagedHeader(ValueError):
    """The header is not what the format allows; the message says where."""


def require_sound(path: Path) -> None:
    """Check that the header is JSON and its tensors fill the rest of the file, without gaps and overlaps.

    Raises:
        DamagedHeader: it is not so.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        if length > min(_LONGEST, size - 8):
            raise DamagedHeader(f"its header is said to be {length} bytes long, in a file of {size}")
        text = file.read(length)
    try:
        header = json.loads(text.decode(), object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError) as error:
        raise DamagedHeader(f"its header is not readable JSON: {error}") from error
    if not isinstance(header, dict):
        raise DamagedHeader("its header is not a JSON object")
    places = sorted((_place(name, entry), name) for name, entry in header.items() if name != "__metadata__")
    end = 0
    for (begin, stop), name in places:
        if begin != end:
            raise DamagedHeader(f"tensor {name!r} begins at byte {begin}, and the one before it ends at {end}")
        end = stop
    if end != size - 8 - length:
        raise DamagedHeader(f"its tensors take {end} bytes, and the file has {size - 8 - length} for them: cut short, perhaps")


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) != len(pairs):
        raise ValueError("a name is there twice")
    return entries


def _place(name: str, entry: Any) -> tuple[int, int]:
    try:
        begin, stop = entry["data_offsets"]
        shape = entry["shape"]
        whole = all(type(number) is int and number >= 0 for number in (begin, stop, *shape))
        bits = _bits(entry["dtype"])
    except (TypeError, KeyError, ValueError) as error:
        raise DamagedHeader(f"tensor {name!r} has no dtype, shape and two data_offsets") from error
    if not whole or begin > stop or (bits and math.prod(shape) * bits != (stop - begin) * 8):
        raise DamagedHeader(f"tensor {name!r} has a shape that does not fit its bytes")
    return begin, stop


def _bits(dtype: str) -> int:
    """Bits of one element; 0 for a dtype that is newer than this module, which the library then judges."""
    known = {"BOOL": 8, "U8": 8, "I8": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32}
    known |= {"F64": 64, "I64": 64, "U64": 64, "C64": 64, "F8_E5M2": 8, "F8_E4M3": 8}
    return known.get(dtype, 0)
