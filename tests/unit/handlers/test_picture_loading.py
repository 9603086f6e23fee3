"""Pictures that end early, in whatever way, are refused; complete ones are decoded to the pixel as Pillow decodes them."""

import gc
import io
import struct
import weakref
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile

from torchrelay_handlers.bodies import images
from torchrelay_handlers.problems import BadSample

EOI = b"\xff\xd9"


def pixels(width: int = 200, height: int = 150, seed: int = 1) -> Image.Image:
    """Blots that differ everywhere."""
    blots = np.random.default_rng(seed).integers(0, 256, (15, 20, 3), np.uint8)
    return Image.fromarray(blots).resize((width, height))


def encoded(kind: str, image: Image.Image | None = None, mode: str = "RGB", **options: Any) -> bytes:
    buffer = io.BytesIO()
    (image or pixels()).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(stream: bytes, width: int, height: int, *, interlaced: bool = False) -> bytes:
    """An RGB PNG of this compressed stream."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, int(interlaced))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", stream) + chunk(b"IEND", b"")


def scanlines(image: Image.Image, *, interlaced: bool = False) -> list[bytes]:
    array = np.asarray(image)
    passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    parts = [array[y::down, x::right] for x, y, right, down in passes] if interlaced else [array]
    return [b"\0" + row.tobytes() for part in parts for row in part if row.size]


JPEGS: list[dict[str, Any]] = [
    {}, {"quality": 95}, {"mode": "L"}, {"mode": "CMYK"}, {"subsampling": 0}, {"subsampling": 2}, {"progressive": True},
    {"progressive": True, "mode": "L"}, {"progressive": True, "quality": 95}, {"restart_marker_blocks": 4}, {"optimize": True},
]  # fmt: skip


@pytest.mark.parametrize("options", JPEGS, ids=str)
def test_a_jpeg_cut_anywhere_and_ended_tidily_is_refused(options: dict[str, Any]) -> None:
    body = encoded("JPEG", **options)
    start = body.index(b"\xff\xda") + 20
    for sixteenth in range(16):
        cut = start + (len(body) - 2 - start) * sixteenth // 16
        if body[cut - 1] == 0xFF:
            cut -= 1
        for tail in (EOI, EOI + bytes(99), bytes(40) + EOI, b""):
            with pytest.raises(BadSample, match="damaged"):
                images.decode(body[:cut] + tail)


@pytest.mark.parametrize("options", JPEGS, ids=str)
@pytest.mark.parametrize("size", [(1, 1), (7, 9), (16, 16), (17, 33), (200, 150)])
def test_a_whole_jpeg_is_decoded_as_pillow_does(options: dict[str, Any], size: tuple[int, int]) -> None:
    body = encoded("JPEG", pixels(*size), **options)
    wanted = Image.open(io.BytesIO(body)).tobytes()
    for more in (b"", b"\0" * 100, b"<script>", body):
        assert images.decode(body + more).tobytes() == wanted


@pytest.mark.parametrize("asks_late", [False, True])
def test_a_jpeg_whose_last_pixel_has_the_colour_of_a_mark_is_whole(asks_late: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow 13.0 does not ask for the end marker after the last row; another version may."""
    load = ImageFile.ImageFile.load

    def load_and_ask(image: ImageFile.ImageFile) -> Any:
        file: Any = image.fp
        result = load(image)
        if asks_late and file is not None:
            file._image = image
            assert file.read(1) in (b"\xff\xd9", b"")
        return result

    monkeypatch.setattr(ImageFile.ImageFile, "load", load_and_ask)
    for colour in range(256):
        image = images.decode(encoded("JPEG", Image.new("L", (8, 8), colour), mode="L", quality=100))
        assert image.getpixel((7, 7)) == colour
    body = encoded("JPEG", mode="L")
    with pytest.raises(BadSample, match="ends before its last pixel"):
        images.decode(body[: len(body) // 2] + EOI)


def test_a_jpeg_without_an_end_marker_is_refused_whatever_follows() -> None:
    for options in JPEGS:
        body = encoded("JPEG", **options)
        for tail in (b"", b"x" * 100, bytes(1000)):
            with pytest.raises(BadSample, match="it has no end marker"):
                images.decode(body[:-2] + tail)


def test_a_jpeg_without_some_of_its_scans_is_refused() -> None:
    body = encoded("JPEG", progressive=True)
    scans = [place for place in range(len(body)) if body[place : place + 2] == b"\xff\xda"]
    for scan in scans[1:]:
        with pytest.raises(BadSample, match="ends before its last pixel"):
            images.decode(body[:scan] + EOI)


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (2, 1), (5, 1), (3, 3), (8, 8), (21, 14), (20, 15)])
@pytest.mark.parametrize("interlaced", [False, True])
def test_a_png_whose_stream_ends_early_but_properly_is_refused(size: tuple[int, int], interlaced: bool) -> None:
    image = pixels(*size)
    rows = scanlines(image, interlaced=interlaced)
    assert images.decode(png(zlib.compress(b"".join(rows)), *size, interlaced=interlaced)).tobytes() == image.tobytes()
    for count in range(len(rows)):
        with pytest.raises(BadSample, match="damaged"):
            images.decode(png(zlib.compress(b"".join(rows[:count])), *size, interlaced=interlaced))
    stream = zlib.compress(b"".join(rows))
    for cut in (len(stream) // 2, len(stream) - 6):
        with pytest.raises(BadSample, match="damaged"):
            images.decode(png(stream[:cut], *size, interlaced=interlaced))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_a_whole_png_is_decoded_as_pillow_does(mode: str) -> None:
    for colour in (0, 1, 0x5A, 255):
        image = pixels().convert("L").point(lambda value, colour=colour: colour if value > 100 else value).convert(mode)
        body = encoded("PNG", image, mode)
        assert images.to_mode(images.decode(body), "RGB").tobytes() == images.to_mode(Image.open(io.BytesIO(body)), "RGB").tobytes()


def test_the_first_frame_of_a_moving_png_is_whole() -> None:
    frames = [pixels(seed=seed) for seed in range(3)]
    buffer = io.BytesIO()
    frames[0].save(buffer, "PNG", save_all=True, append_images=frames[1:])
    assert images.decode(buffer.getvalue()).tobytes() == frames[0].tobytes()


@pytest.mark.parametrize("options", [{}, {"lossless": True}, {"mode": "RGBA"}])
def test_a_webp_whose_lengths_fit_a_cut_is_refused(options: dict[str, Any]) -> None:
    body = encoded("WEBP", **options)
    size = int.from_bytes(body[16:20], "little")
    assert body[12:15] == b"VP8"
    for cut in (size // 4 * 2, size // 20 * 18, size // 2 * 2 - 20):
        tidy = b"RIFF" + struct.pack("<I", 12 + cut) + b"WEBP" + body[12:16] + struct.pack("<I", cut) + body[20 : 20 + cut]
        with pytest.raises(BadSample, match="damaged"):
            images.decode(tidy)
    assert images.decode(body).size == (200, 150)


def test_a_gif_or_bmp_or_tiff_that_ends_early_is_refused() -> None:
    for kind in ("GIF", "BMP", "TIFF"):
        body = encoded(kind, mode="P" if kind == "GIF" else "RGB")
        for tail in (b"", b"\0;"):
            with pytest.raises(BadSample, match="damaged"):
                images.decode(body[: len(body) // 2] + tail, [kind])


def test_a_photo_with_a_preview_after_it_is_read_as_its_first_picture() -> None:
    buffer = io.BytesIO()
    pixels().save(buffer, "MPO", save_all=True, append_images=[pixels(40, 30, 2)])
    assert images.decode(buffer.getvalue()).size == (200, 150)


def test_a_tiff_of_jpeg_data_is_refused() -> None:
    assert images.decode(encoded("TIFF", compression="tiff_lzw"), ["TIFF"]).tobytes() == pixels().tobytes()
    with pytest.raises(BadSample, match="a TIFF of JPEG data is not supported") as refused:
        images.decode(encoded("TIFF", compression="jpeg"), ["TIFF"])
    assert refused.value.status == 415


@pytest.mark.parametrize(("kind", "options"), [("JPEG", {}), ("JPEG", {"progressive": True}), ("PNG", {}), ("WEBP", {})])
def test_a_decoded_picture_is_kept_by_nobody_but_its_user(kind: str, options: dict[str, Any]) -> None:
    """A request of many pictures, all opened, must not have all their pixels in memory."""
    gc.disable()
    try:
        opened = images.opened(encoded(kind, **options))
        image = opened.load()
        reference = weakref.ref(image)
        del image
        assert reference() is None
    finally:
        gc.enable()
    with pytest.raises(RuntimeError, match="loaded before"):
        opened.load()
