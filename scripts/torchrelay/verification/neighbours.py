"""Generates requests like a sample, with other values, to share batches with it: a model that mixes up its batch is then found out.

Nobody knows the right answers to them, so they are not judged.
"""

import base64
import binascii
import json
import struct
import zlib
from dataclasses import dataclass
from typing import Any

from torchrelay.model.samples import Sample

PNG = b"\x89PNG\r\n\x1a\n"
JPEG = b"\xff\xd8"
_GREY, _RGB = 0, 2  # colour types of PNG: https://www.w3.org/TR/png-3/#11IHDR
_MOST_PIXELS = 1 << 24
# Start of frame markers: all of C0 to CF but DHT (C4), JPG (C8) and DAC (CC); ITU-T T.81, table B.1
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_ALONE = frozenset({0x01, *range(0xD0, 0xD9)})
_LONGEST_TEXT = 1 << 20


@dataclass(frozen=True)
class Neighbour:
    """A request to share a batch with a sample."""

    body: bytes
    content_type: str


def neighbour_of(sample: Sample) -> Neighbour | None:
    """Return a request with the sample's shape and other values; None when none can be made.

    Numbers and words are put into the opposite order, so no value is new to the model; a picture becomes a grey one of its size.
    """
    kind = sample.content_type.partition(";")[0].strip().lower()
    if picture := _picture(sample.body):
        return Neighbour(picture, "image/png")
    if kind == "application/json":
        try:
            value = json.loads(sample.body)
        except (ValueError, RecursionError):
            return None
        changed = _reversed(value)
        return None if changed == value else Neighbour(json.dumps(changed).encode(), sample.content_type)
    if kind.startswith("text/") and len(sample.body) <= _LONGEST_TEXT:
        words = sample.body.split(b" ")
        return None if words == words[::-1] else Neighbour(b" ".join(words[::-1]), sample.content_type)
    return None


def _reversed(value: Any) -> Any:
    """The value with every list of numbers, and every text's words, in the opposite order; pictures in base64 become grey."""
    if isinstance(value, list):
        if all(isinstance(item, int | float) for item in value):
            return _different(value)
        return [_reversed(item) for item in value]
    if isinstance(value, dict):
        return {name: _reversed(item) for name, item in value.items()}
    if isinstance(value, str):
        try:
            picture = _picture(base64.b64decode(value, validate=True))
        except (binascii.Error, ValueError):
            picture = None
        return base64.b64encode(picture).decode() if picture else " ".join(value.split(" ")[::-1])
    return value


def _different(numbers: list[Any]) -> list[Any]:
    """The numbers in the opposite order; where that is the same list, the fractions among them are halved."""
    if numbers != numbers[::-1]:
        return numbers[::-1]
    return [number / 2 + 1 if isinstance(number, float) else number for number in numbers]


def _picture(body: bytes) -> bytes | None:
    """A grey PNG of the size of the PNG or JPEG in `body`."""
    size = _png_size(body) if body.startswith(PNG) else _jpeg_size(body) if body.startswith(JPEG) else None
    if size is None or not 0 < size[0] * size[1] <= _MOST_PIXELS:
        return None
    width, height, colour = size
    samples = 3 if colour == _RGB else 1
    rows = zlib.compress((b"\0" + b"\x5a" * (width * samples)) * height, 1)
    header = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    return PNG + _chunk(b"IHDR", header) + _chunk(b"IDAT", rows) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png_size(body: bytes) -> tuple[int, int, int] | None:
    if len(body) < 33:
        return None
    width, height, _, colour = struct.unpack(">IIBB", body[16:26])
    return width, height, _RGB if colour & 2 else _GREY


def _jpeg_size(body: bytes) -> tuple[int, int, int] | None:
    at = 2
    while at + 10 <= len(body) and body[at] == 0xFF:
        marker = body[at + 1]
        if marker in _FRAMES:
            height, width, components = struct.unpack(">HHB", body[at + 5 : at + 10])
            return width, height, _RGB if components == 3 else _GREY
        at += 2 if marker in _ALONE else 2 + int.from_bytes(body[at + 2 : at + 4], "big")
    return None
