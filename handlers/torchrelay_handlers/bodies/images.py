"""Turns pictures in request bodies into network input, guarded: decode, resize, crop; no torchvision needed.

An image bomb is a few KB that unpack to gigabytes, so size, work and format are checked before a pixel is decoded. JPEGs are not
decoded at a reduced scale (Pillow's draft mode): the network would get other pixels.
"""

import io
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from torchrelay_handlers.bodies import parsers
from torchrelay_handlers.bodies.picture_loading import JpegFile, load_jpeg, load_png
from torchrelay_handlers.bodies.picture_work import (
    JPEG_MAGIC,
    PNG_MAGIC,
    SEGMENT_PIXELS,
    Jpeg,
    jpeg_outline,
    png_segments,
)
from torchrelay_handlers.catalogue import USUAL_PIXELS, pixel_limits
from torchrelay_handlers.problems import BadSample

_FIELDS = ("image", "data", "b64", "image_bytes")
FORMATS = ("PNG", "JPEG", "WEBP")


def body_of(value: object) -> bytes:
    """The image file in a decoded body: bytes, base64 text, or either under one of the usual names.

    Raises:
        BadSample: there is none, or the base64 is wrong.
    """
    if isinstance(value, dict):
        named = [value[name] for name in _FIELDS if name in value]
        if "url" in value:
            raise BadSample(
                "images by URL are not allowed: send the bytes, or base64. The model's owner can allow hosts in model.yaml, "
                "for example handler_args: {url_hosts: [images.example.com]}",
                kind="bad-image",
            )
        if len(named) != 1:
            raise BadSample(
                "the JSON must hold one image as base64", expected={"image": "base64 of the image file"}, kind="bad-image"
            )
        value = named[0]
        if isinstance(value, dict) and value.keys() == {"b64"}:  # Vertex AI's {"image_bytes": {"b64": ...}}
            value = value["b64"]
    if isinstance(value, str):
        value = parsers.parse_base64(value)
    if not isinstance(value, bytes | bytearray):
        raise BadSample("the body must be an image file, or JSON with one as base64", kind="bad-image")
    if not value:
        raise BadSample("the image is empty", kind="bad-image")
    return bytes(value)


@dataclass(frozen=True, slots=True)
class Limits:
    """`pixels`: of one picture; `request_pixels`: of all pictures of one request, counted as often as they are decoded."""

    pixels: int = USUAL_PIXELS
    request_pixels: int = 2 * USUAL_PIXELS

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> "Limits":
        """The limits that the options set, or leave to the network's size."""
        return cls(*pixel_limits(options))


@dataclass(slots=True)
class Opened:
    """A picture whose header alone is read; `work` is what decoding it takes, in pixels."""

    image: Image.Image | None
    body: bytes
    work: int
    jpeg: Jpeg | None = None
    file: JpegFile | None = None

    def load(self) -> Image.Image:
        """Decode it, once: it does not keep the pixels, because the other pictures of its request come next.

        Raises:
            BadSample: the file is damaged.
        """
        image, file = self.image, self.file
        self.image = self.file = None
        if image is None:
            raise RuntimeError("the picture has been loaded before")
        try:
            if self.jpeg is not None and file is not None:
                return load_jpeg(image, file, self.body, self.jpeg)
            if image.format == "PNG":
                return load_png(image, self.body)
            image.load()
        except BadSample:
            raise
        except Exception as error:  # Pillow's readers raise what they like; a truncated file fails here
            raise BadSample(f"the image is damaged: {error}", kind="bad-image") from None
        return image


def opened(body: bytes, formats: Collection[str] = FORMATS, limits: Limits | None = None) -> Opened:
    """A picture whose size and work are within the limits; nothing is decoded yet.

    Raises:
        BadSample: the format is not allowed (415), decoding it is too much work (413), or its header is damaged.
    """
    limits = limits or Limits()
    segments, outline, file = 0, None, None
    if body.startswith(JPEG_MAGIC):
        outline = jpeg_outline(body)
        segments = outline.segments
        file = JpegFile(body, outline.end) if outline.end is not None else None
    elif body.startswith(PNG_MAGIC):
        segments = png_segments(body)
    try:
        image = Image.open(file or io.BytesIO(body), formats=list(formats))
    except Image.DecompressionBombError as error:
        raise BadSample(str(error), status=413, kind="image-too-large") from None
    except UnidentifiedImageError:
        message = "the body is not an image of a supported format"
        raise BadSample(message, expected={"formats": sorted(formats)}, kind="bad-image") from None
    except Exception as error:  # Pillow's readers raise what they like: OSError, SyntaxError, struct.error, ...
        raise BadSample(f"the image is damaged: {error}", kind="bad-image") from None
    if image.info.get("compression") in ("jpeg", "tiff_jpeg"):
        message = (
            "a TIFF of JPEG data is not supported: neither its work nor its end can be checked; send the picture as JPEG or PNG"
        )
        raise BadSample(message, expected={"formats": sorted(formats)}, status=415, kind="bad-image")
    width, height = image.size
    pixels = width * height
    if pixels > limits.pixels:
        raise BadSample(
            f"the image has {width} x {height} pixels", expected={"max_pixels": limits.pixels}, status=413, kind="image-too-large"
        )
    if outline is not None and outline.end is None:
        raise BadSample("the image is damaged: it has no end marker", kind="bad-image")
    work = pixels * (outline.passes if outline is not None else 1) + SEGMENT_PIXELS * segments
    if work > limits.request_pixels:
        what = f" in {outline.scans} scans" if outline is not None else ""
        raise _too_large(f"the image has {width} x {height} pixels{what}: too much to decode", limits)
    return Opened(image, body, work, outline, file)


class Budget:
    """The pixels that one request may still decode."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.left = limits.request_pixels

    def open(self, body: bytes, formats: Collection[str] = FORMATS) -> Opened | BadSample:
        """The picture, or the refusal of a file that is not one.

        Raises:
            BadSample: with this picture, the request is too much work (413).
        """
        try:
            picture = opened(body, formats, self.limits)
        except BadSample as refusal:
            return refusal
        self.left -= picture.work
        if self.left < 0:
            raise _too_large("the images of this request have too many pixels together: send fewer at a time", self.limits)
        return picture


def _too_large(detail: str, limits: Limits) -> BadSample:
    return BadSample(detail, expected={"max_request_pixels": limits.request_pixels}, status=413, kind="image-too-large")


def decode(body: bytes, formats: Collection[str] = FORMATS, limits: Limits | None = None) -> Image.Image:
    """A decoded Pillow image; of several frames, the first.

    Raises:
        BadSample: see `opened` and `Opened.load`.
    """
    return opened(body, formats, limits).load()


def to_mode(image: Image.Image, mode: str) -> Image.Image:
    """`image` as RGB or L; 16-bit greyscale is scaled to 8 bits, which Pillow's own conversion would clip to white."""
    if image.mode.startswith("I"):
        image = image.convert("I").point(lambda value: value * (1 / 257)).convert("L")
    return image if image.mode == mode else image.convert(mode)


def fit(image: Image.Image, height: int, width: int, *, stretch: bool = False, shorter: int | None = None) -> Image.Image:
    """`image` at height x width: stretched, or the largest centre of that proportion, or scaled to `shorter` and centre cropped.

    The centre is cropped and then resized, to the pixel as fastai's Resize does it.
    """
    if image.size == (width, height) and shorter is None:
        return image
    if stretch:
        return image.resize((width, height), Image.Resampling.BILINEAR)
    scale = max(width / image.width, height / image.height) if shorter is None else shorter / min(image.size)
    scaled = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    if max(scaled) > 16 * max(width, height, shorter or 0):  # 1 x 60000 pixels, say
        raise BadSample(f"an image of {image.width} x {image.height} pixels is too elongated", kind="bad-image")
    if shorter is None:
        times = min(image.width / width, image.height / height)
        wide, high = max(1, int(times * width)), max(1, int(times * height))
        left, top = (image.width - wide) // 2, (image.height - high) // 2
        return image.crop((left, top, left + wide, top + high)).resize((width, height), Image.Resampling.BILINEAR)
    if scaled != image.size:
        image = image.resize(scaled, Image.Resampling.BILINEAR)
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    return image.crop((left, top, left + width, top + height))


def as_tensor(image: Image.Image) -> Tensor:
    """uint8 [C, H, W] of an RGB or L image."""
    channels = len(image.getbands())
    flat = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return flat.view(image.height, image.width, channels).permute(2, 0, 1)


def normalizer(mean: Any, std: Any, channels: int, dtype: torch.dtype) -> "Normalize":
    """Makes `dtype` [N, C, H, W], (x / 255 - mean) / std, from a uint8 batch."""
    return Normalize(_per_channel(mean, channels, "mean"), _per_channel(std, channels, "std"), dtype)


def _per_channel(value: Any, channels: int, name: str) -> Tensor:
    values = value if isinstance(value, list) else [value]
    if len(values) not in (1, channels):
        raise ValueError(f"handler_args.{name}: {len(values)} numbers for {channels} channels; give 1 or {channels}")
    return torch.tensor(values, dtype=torch.float64).expand(channels).reshape(1, channels, 1, 1)


class Normalize:
    """One multiplication and one addition on the whole batch, on its device: a quarter of the bytes travel there."""

    def __init__(self, mean: Tensor, std: Tensor, dtype: torch.dtype) -> None:
        self.scale = (1 / (255 * std)).to(dtype)
        self.shift = (-mean / std).to(dtype)

    def __call__(self, batch: Tensor) -> Tensor:
        """uint8 [N, C, H, W] -> floating point, same shape."""
        if self.scale.device != batch.device:
            self.scale, self.shift = self.scale.to(batch.device), self.shift.to(batch.device)
        return batch.to(self.scale.dtype).mul_(self.scale).add_(self.shift)
