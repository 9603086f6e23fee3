"""How much work a picture is: its segments, its scans and its pixels, known before a pixel is decoded.

A file of a few KB can take minutes: a progressive JPEG decodes all its pixels again for every scan, a PNG of one colour
unpacks a thousandfold. So work is counted in pixels, and compared with a budget.
"""

import re
from dataclasses import dataclass, field

from torchrelay_handlers.problems import BadSample

JPEG_MAGIC = b"\xff\xd8\xff"
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
# libjpeg's own script for a progressive JPEG has 10 scans (6 in grey, 18 in CMYK); mozjpeg's search stays below 20.
USUAL_SCANS = 20
MOST_SEGMENTS = 10_000  # a PNG of 20 MB in the 8 KiB pieces of libpng has 2500; a progressive JPEG about 30
SEGMENT_PIXELS = 300  # Pillow reads segments in Python: 1 to 3 us each, when a pixel takes 6 to 20 ns (Pillow 13.0)
_MARKER = re.compile(rb"\xff[\xc0-\xcf\xd9-\xfe]")  # those that libjpeg stops at, in entropy-coded data too
_FRAMES = (*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0))
_PROGRESSIVE = (0xC2, 0xC6, 0xCA, 0xCE)
_SCAN, _END = 0xDA, 0xD9
_COEFFICIENTS = 64
_MISSING = 0xFF


@dataclass(slots=True)
class Jpeg:
    """What the segments of a JPEG say: `end` is the offset of its end marker, None when there is none."""

    scans: int = 0
    segments: int = 0
    end: int | None = None
    progressive: bool = False
    bits: dict[int, bytearray] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether the scans name every coefficient of every component, down to its last bit."""
        return self.scans > 0 and bool(self.bits) and not any(map(any, self.bits.values()))

    @property
    def passes(self) -> int:
        """How often the pixels are decoded: twice for several scans, because they are also checked (`picture_loading`)."""
        return 1 if self.scans <= 1 else 2 * -(-self.scans // USUAL_SCANS)


def jpeg_outline(body: bytes) -> Jpeg:
    """The segments of a JPEG, found as libjpeg finds them, in one pass.

    Raises:
        BadSample: there are more than `MOST_SEGMENTS` (413).
    """
    outline = Jpeg()
    at = 2
    while (match := _MARKER.search(body, at)) is not None:
        at, marker = match.end(), body[match.end() - 1]
        if marker == _END:
            outline.end = match.start()
            break
        length = int.from_bytes(body[at : at + 2], "big")
        if length < 2:
            break
        _add_segment(outline, marker, body[at + 2 : at + length])
        at += length
    return outline


def _add_segment(outline: Jpeg, marker: int, data: bytes) -> None:
    outline.segments += 1
    if outline.segments > MOST_SEGMENTS:
        raise too_many_segments()
    if marker in _FRAMES:
        outline.progressive = marker in _PROGRESSIVE
        outline.bits = {component: bytearray([_MISSING]) * _COEFFICIENTS for component in data[6::3]}
    elif marker == _SCAN and len(data) >= 4:
        outline.scans += 1
        count = data[0]
        first, last, bit = 0, _COEFFICIENTS - 1, 0
        if outline.progressive and len(data) >= 4 + 2 * count:
            first, last, bit = data[1 + 2 * count], min(data[2 + 2 * count], _COEFFICIENTS - 1), data[3 + 2 * count] & 15
        for component in data[1 : 1 + 2 * count : 2]:
            if component in outline.bits and first <= last:
                outline.bits[component][first : last + 1] = bytes([bit]) * (last - first + 1)


def png_segments(body: bytes) -> int:
    """The number of chunks of a PNG.

    Raises:
        BadSample: there are more than `MOST_SEGMENTS` (413).
    """
    at, count = len(PNG_MAGIC), 0
    while at + 8 <= len(body):
        at += 12 + int.from_bytes(body[at : at + 4], "big")
        count += 1
        if count > MOST_SEGMENTS:
            raise too_many_segments()
    return count


def too_many_segments() -> BadSample:
    """The refusal of a picture of more than `MOST_SEGMENTS` segments."""
    return BadSample(f"the image has more than {MOST_SEGMENTS} segments", status=413, kind="image-too-large")
