"""Bad requests for handlers of images that take PNG, JPEG and WEBP of at most a million pixels."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image

from tests.container.corpus.case import Case, cases

PNG = "image/png"
MOST_PIXELS = 1_000_000
_NO_IMAGE = "not an image of a supported format|damaged"
_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"


def picture(kind: str = "PNG", size: tuple[int, int] = (32, 24), mode: str = "RGB", **options: object) -> bytes:
    """Blots that differ everywhere, in one of Pillow's formats."""
    pixels = np.random.default_rng(1).integers(0, 256, (6, 8, 3), np.uint8)
    image = Image.fromarray(pixels).resize(size).convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(kind: bytes, data: bytes, crc: int | None = None) -> bytes:
    """One chunk of a PNG file."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data) if crc is None else crc)


def png(width: int, height: int, depth: int = 8, colour: int = 2, rest: bytes | None = None, tail: bytes = b"\0\0\0") -> bytes:
    """A PNG file of any header; `rest` replaces its chunks of pixels and its end."""
    pixels = chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    return (
        _PNG_MAGIC + chunk(b"IHDR", struct.pack(">IIBB", width, height, depth, colour) + tail) + (pixels if rest is None else rest)
    )


def image_cases() -> list[Case]:
    """Files as they are."""
    corpus: list[Case] = []
    for kind in ("PNG", "JPEG", "WEBP"):
        good, media = picture(kind), f"image/{kind.lower()}"
        # The last bytes of a file may be missing without any pixel being lost.
        cuts = sorted({int(len(good) * part / 16) for part in range(1, 15)} | {1, 2, 4, 9, 12, 20})
        corpus += cases(f"{kind} cut", ((f"after {size} bytes", good[:size]) for size in cuts), media, _NO_IMAGE)
        corpus += cases(f"{kind} twice", [("magic alone", good[:8] * 4)], media, _NO_IMAGE)
        dice = np.random.default_rng(len(good))
        corpus += cases(
            f"{kind} noise after its magic", ((str(seed), good[:12] + dice.bytes(200)) for seed in range(6)), media, _NO_IMAGE
        )
        corpus += cases(f"{kind} changed", _changed(good), media, wanted="either")
        corpus.append(Case(f"{kind} legal", good, media, wanted="answered"))
        corpus.append(Case(f"{kind} of another type", good, "image/gif", wanted="answered"))
        corpus.append(Case(f"{kind} and more", good + b"<script>alert(1)</script>", media, wanted="answered"))
    corpus += cases("png header", _headers(), PNG, _NO_IMAGE + "|max_pixels|pixels")
    corpus += cases("png chunks", _chunks(), PNG, _NO_IMAGE)
    corpus += cases("too many pixels", _large(), PNG, "max_pixels|pixels|elongated")
    corpus += cases("another format", _others(), PNG, _NO_IMAGE)
    corpus += cases("no image", _nothing(), PNG, _NO_IMAGE)
    kinds = (
        "application/json",
        "text/csv",
        "application/x-npy",
        "text/plain",
        "application/problem+json",
        "text/html; charset=nonsense",
    )
    corpus += [Case(f"png as {kind}", picture(), kind, says="JSON|not text|npy|charset|content type") for kind in kinds]
    corpus += cases("png odd", _odd(), PNG, wanted="either")
    corpus.append(Case("image empty", b"", PNG, says="empty"))
    return [*corpus, Case("image oversize", picture() + bytes(1 << 21), PNG, says="larger")]


def _changed(good: bytes) -> Iterator[tuple[str, bytes]]:
    """One byte changed: some are refused, some are another picture."""
    dice = np.random.default_rng(3)
    for place in dice.choice(len(good), 25, replace=False).tolist():
        yield f"at {place}", good[:place] + bytes([good[place] ^ int(dice.integers(1, 256))]) + good[place + 1 :]


def _headers() -> Iterator[tuple[str, bytes]]:
    for width, height in (
        (0, 0),
        (0, 8),
        (8, 0),
        (2**31, 8),
        (2**32 - 1, 2**32 - 1),
        (60_000, 60_000),
        (2**31 - 1, 1),
        (1001, 1000),
    ):
        yield f"{width} x {height}", png(width, height)
    for depth, colour in ((0, 2), (3, 2), (255, 2), (8, 1), (8, 5), (8, 7), (8, 255), (1, 2), (16, 3), (4, 4), (2, 6)):
        yield f"depth {depth}, colour {colour}", png(8, 8, depth, colour)
    yield "filter", png(8, 8, tail=b"\0\x09\0")
    yield "compression", png(8, 8, tail=b"\x09\0\0", rest=b"")
    yield "too few pixels", png(100, 100)
    yield "interlaced, too few", png(100, 100, tail=b"\0\0\x01")
    yield "short", _PNG_MAGIC + chunk(b"IHDR", b"\0\0\0\x08")
    yield "empty", _PNG_MAGIC + chunk(b"IHDR", b"")
    yield "wrong check", _PNG_MAGIC + chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0), crc=1) + chunk(b"IEND", b"")
    yield "none", _PNG_MAGIC + chunk(b"IDAT", zlib.compress(bytes(300))) + chunk(b"IEND", b"")


def _chunks() -> Iterator[tuple[str, bytes]]:
    end = chunk(b"IEND", b"")
    data = zlib.compress(bytes(8 * 25))
    yield "no pixels", png(8, 8, rest=end)
    yield "no pixels, no end", png(8, 8, rest=b"")
    yield "pixels of noise", png(8, 8, rest=chunk(b"IDAT", b"\xff" * 100) + end)
    yield "pixels of nothing", png(8, 8, rest=chunk(b"IDAT", b"") + end)
    yield "filter of a row", png(8, 8, rest=chunk(b"IDAT", zlib.compress(b"\x09" * 200)) + end)
    yield "name of zeros", png(8, 8, rest=chunk(b"\0\0\0\0", data) + end)
    yield "unknown and critical", png(8, 8, rest=chunk(b"ABCD", data) + end)
    yield "no palette", png(8, 8, colour=3, rest=chunk(b"IDAT", b"\xff") + end)
    text = zlib.compress(bytes(100 << 20), 9)
    yield "text of 100 MB", png(8, 8, rest=chunk(b"zTXt", b"k\0\0" + text) + chunk(b"IDAT", data) + end)
    yield "international text of 100 MB", png(8, 8, rest=chunk(b"iTXt", b"k\0\x01\0\0\0" + text) + chunk(b"IDAT", data) + end)
    yield "colour profile of 100 MB", png(8, 8, rest=chunk(b"iCCP", b"k\0\0" + text) + chunk(b"IDAT", b"") + end)


def _large() -> Iterator[tuple[str, bytes]]:
    yield "PNG of 1001 x 1000", picture(size=(1001, 1000), mode="L")
    yield "PNG of 4000 x 3000, one bit", picture(size=(4000, 3000), mode="1")
    yield "PNG of 1 x 1000001", png(1, 1_000_001)
    yield "JPEG of 1200 x 900", picture("JPEG", (1200, 900))
    yield "JPEG that says 65500 x 65500", _jpeg_of(65_500, 65_500)
    yield "JPEG that says 65535 x 1000", _jpeg_of(65_535, 1000)
    yield "WEBP of 1200 x 900", picture("WEBP", (1200, 900))
    yield "WEBP without loss, 3000 x 2000", picture("WEBP", (3000, 2000), lossless=True)
    yield (
        "bomb of 20000 x 20000",
        png(20_000, 20_000, 1, 0, chunk(b"IDAT", zlib.compress(bytes(50_000_000), 9)) + chunk(b"IEND", b"")),
    )


def _jpeg_of(width: int, height: int) -> bytes:
    good = bytearray(picture("JPEG"))
    at = good.index(b"\xff\xc0")
    good[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(good)


def _others() -> Iterator[tuple[str, bytes]]:
    for kind in (
        "GIF",
        "BMP",
        "TIFF",
        "ICO",
        "PPM",
        "TGA",
        "PCX",
        "SGI",
        "MSP",
        "XBM",
        "DDS",
        "PDF",
        "EPS",
        "JPEG2000",
        "ICNS",
        "DIB",
    ):
        mode = "1" if kind in ("MSP", "XBM") else "RGB"
        yield kind, picture(kind, mode=mode)
    yield from {
        "SVG": b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
        "SVG with an entity": b'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY y SYSTEM "file:///etc/passwd">]><svg>&y;</svg>',
        "HEIC": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
        "AVIF": b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf",
        "PSD": b"8BPS\0\x01" + bytes(20),
        "JPEG XL": b"\xff\x0a" + bytes(20),
        "EXR": b"\x76\x2f\x31\x01" + bytes(20),
        "FITS": b"SIMPLE  =                    T" + b" " * 50,
        "WMF": b"\xd7\xcd\xc6\x9a" + bytes(40),
        "FLI": bytes(4) + b"\x11\xaf" + bytes(122),
        "MPO": b"\xff\xd8\xff\xe2" + bytes(30),
        "RIFF of sound": b"RIFF\x24\0\0\0WAVEfmt " + bytes(28),
        "RIFF of nothing": b"RIFF\x04\0\0\0WEBP",
        "WEBP of no known part": b"RIFF\x20\0\0\0WEBPABCD" + bytes(20),
        "MP4": b"\0\0\0\x18ftypmp42" + bytes(16),
        "ImageMagick script": b"push graphic-context\nfill 'url(https://example.com/x.png\"|true\")'\npop graphic-context",
        "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(true) run\n",
    }.items()


def _nothing() -> Iterator[tuple[str, bytes]]:
    yield from {
        "one byte": b"\0",
        "zeros": bytes(1000),
        "text": b"not an image",
        "json": b'{"image": 1}',
        "html": b"<!doctype html>",
        "base64": base64.b64encode(picture()),
        "data address": b"data:image/png;base64," + base64.b64encode(picture()),
        "address": b"https://example.com/cat.png",
        "zip": b"PK\x03\x04" + bytes(40),
        "gzip": b"\x1f\x8b\x08" + bytes(40),
        "elf": b"\x7fELF" + bytes(60),
        "pickle": b"\x80\x04K\x01.",
        "bytes before a png": b"\n" + picture(),
        "png with line ends changed": picture().replace(b"\r\n", b"\n"),
        "png read as text": picture().decode("latin-1").encode(),
        "form": b'--b\r\nContent-Disposition: form-data; name="image"\r\n\r\n' + picture() + b"\r\n--b--",
        "every byte": bytes(range(256)),
        "null device": b"/dev/zero",
    }.items()


def _odd() -> Iterator[tuple[str, bytes]]:
    yield "one pixel", picture(size=(1, 1))
    yield "elongated", picture(size=(4000, 1))
    yield "CMYK", picture("JPEG", mode="CMYK")
    yield "palette", picture(mode="P")
    yield "transparent", picture(mode="RGBA")
    yield "16 bits", picture(mode="I;16")
    yield "greyscale and transparent", picture(mode="LA")
    yield "one bit", picture(mode="1")
    yield "progressive", picture("JPEG", progressive=True)
    frames = [Image.new("RGB", (8, 8), (shade, 0, 0)) for shade in range(3)]
    for kind in ("PNG", "WEBP"):
        buffer = io.BytesIO()
        frames[0].save(buffer, kind, save_all=True, append_images=frames[1:])
        yield f"moving {kind}", buffer.getvalue()
    yield "exif of noise", picture("JPEG", exif=b"Exif\0\0" + bytes(range(200)))
    yield "colour profile of noise", picture(icc_profile=bytes(range(200)))
    yield "wrong check of pixels", png(8, 8, rest=chunk(b"IDAT", zlib.compress(bytes(200)), crc=7) + chunk(b"IEND", b""))
    yield "length beyond the end", png(8, 8, rest=struct.pack(">I", 2**31 - 1) + b"IDAT" + zlib.compress(bytes(200)))
    yield "length of 4 GiB", png(8, 8, rest=struct.pack(">I", 2**32 - 1) + b"IDAT" + zlib.compress(bytes(200)))
    yield "end missing", picture()[:-12]
    yield "colour profile of noise in JPEG", picture("JPEG", icc_profile=bytes(range(200)))
