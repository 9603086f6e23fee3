"""Decodes a picture's pixels, and refuses a picture that has fewer of them than it says.

Pillow 13.0 refuses a file that stops in the middle. It accepts, with grey or black for what is missing: a JPEG whose end marker
follows a cut, and a PNG whose compressed stream ends properly but early. It refuses such WebP, GIF, TIFF and BMP files itself.
"""

import io
from typing import Any

from PIL import Image, ImageChops

from torchrelay_handlers.bodies.picture_work import Jpeg
from torchrelay_handlers.problems import BadSample

# libjpeg reads up to 8 bytes ahead of the last block (64 bits); it skips what it does not need.
_READ_AHEAD = bytes(8)
# Bits that a decoder takes for coefficients where a scan lacks its own, and skips where it does not. No 0xFF among them.
_FILLER = bytes(range(1, 128, 2))
_STRIP = 256
_EOI = b"\xff\xd9"
_MARK = (0x5A, 0xA7, 0x3C, 0xD1)


class JpegFile(io.BytesIO):
    """A JPEG whose end marker is held back until the decoder asks for it: by then a picture that is complete has its last row."""

    def __init__(self, body: bytes, end: int) -> None:
        super().__init__(body[:end] + _READ_AHEAD)
        self._image: Image.Image | None = None
        self._mark: Mark | None = None
        self.unfinished = False
        self._ended = False

    def load(self, image: Image.Image, mark: "Mark | None" = None) -> None:
        """Decode `image`, which was opened from this file; `unfinished` says afterwards whether `mark` was left in it."""
        self._image, self._mark = image, mark
        image.load()

    def read(self, size: int | None = -1, /) -> bytes:
        """See io.BytesIO."""
        data = super().read(size)
        if data or self._image is None or self._ended:
            return data
        self._ended = True
        self.unfinished = self._mark is not None and self._mark.is_left(self._image)
        return _EOI


def load_jpeg(image: Image.Image, file: JpegFile, body: bytes, outline: Jpeg) -> Image.Image:
    """Decode a JPEG that was opened from `file`, which was made of `body`.

    Raises:
        BadSample: some of its pixels are missing.
    """
    if not outline.complete:
        raise _incomplete()
    if outline.scans == 1:
        return _load_single(image, file, body, outline)
    file.load(image)  # libjpeg decodes no row of several scans before it sees the end marker
    other = Image.open(io.BytesIO(body[: outline.end] + _FILLER + _EOI), formats=["JPEG"])
    other.load()
    for top in range(0, image.height, _STRIP):  # in strips: the difference of the whole would take as much memory again
        strip = (0, top, image.width, min(top + _STRIP, image.height))
        if ImageChops.difference(image.crop(strip), other.crop(strip)).getbbox(alpha_only=False) is not None:
            raise _incomplete()
    return image


def _load_single(image: Image.Image, file: JpegFile, body: bytes, outline: Jpeg) -> Image.Image:
    for number in range(2):  # the last pixel may have the first mark's colour, but not that of both
        if number:
            file = JpegFile(body, outline.end or 0)
            image = Image.open(file, formats=["JPEG"])
        file.load(image, Mark(image, (image.width - 1, image.height - 1), number))
        if not file.unfinished:
            return image
    raise _incomplete()


def load_png(image: Image.Image, body: bytes) -> Image.Image:
    """Decode a PNG that was opened from `body`.

    Raises:
        BadSample: some of its pixels are missing.
    """
    for number in range(2):
        if number:
            image = Image.open(io.BytesIO(body), formats=["PNG"])
        mark = Mark(image, _last_pixel(image), number)
        image.load()
        if not mark.is_left(image):
            return image
    raise _incomplete()


class Mark:
    """A colour in one pixel, set before a picture is decoded. When it is still there, that pixel is missing, or has this colour."""

    def __init__(self, image: Image.Image, at: tuple[int, int], number: int) -> None:
        self.at = at
        self.colour = _colour(image, number)
        blank = Image.new(image.mode, image.size, None).im
        blank.putpixel(at, self.colour)
        image.im = blank  # Pillow decodes into the memory that a picture has

    def is_left(self, image: Image.Image) -> bool:
        """Whether the pixel has the mark's colour."""
        return bool(image.im.getpixel(self.at) == self.colour)


def _last_pixel(image: Image.Image) -> tuple[int, int]:
    """The pixel that a PNG's stream ends in: interlaced pictures end in their odd rows, or in the odd columns of a single row."""
    width, height = image.size
    if not image.info.get("interlace"):
        return width - 1, height - 1
    if height > 1:
        return width - 1, height - 1 - height % 2
    return width - 1 - (width % 2 if width > 1 else 0), 0


def _colour(image: Image.Image, number: int) -> Any:
    if image.mode == "1":
        return 255 * number
    values = tuple(value ^ (0x55 * number) for value in _MARK[: len(image.getbands())])
    return values if len(values) > 1 else values[0]


def _incomplete() -> BadSample:
    return BadSample("the image is damaged: it ends before its last pixel", kind="bad-image")
