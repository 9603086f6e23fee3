"""Turns pictures in request bodies into network input, guarded: decode, resize, crop; no torchvision needed.

An image bomb is a few KB that unpack to gigabytes, so size and format are checked before a pixel is decoded.
"""

import io
from collections.abc import Collection
from typing import Any

import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from torchrelay_handlers.bodies import parsers
from torchrelay_handlers.catalogue import MAX_PIXELS
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


def decode(body: bytes, formats: Collection[str] = FORMATS, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """A decoded Pillow image; of several frames, the first.

    Raises:
        BadSample: the format is not allowed (415), the picture is too large (413), or the file is damaged.
    """
    try:
        image = Image.open(io.BytesIO(body), formats=list(formats))
    except Image.DecompressionBombError as error:
        raise BadSample(str(error), status=413, kind="image-too-large") from None
    except UnidentifiedImageError:
        message = "the body is not an image of a supported format"
        raise BadSample(message, expected={"formats": sorted(formats)}, kind="bad-image") from None
    except Exception as error:  # Pillow's readers raise what they like: OSError, SyntaxError, struct.error, ...
        raise BadSample(f"the image is damaged: {error}", kind="bad-image") from None
    width, height = image.size
    if width * height > max_pixels:
        raise BadSample(
            f"the image has {width} x {height} pixels", expected={"max_pixels": max_pixels}, status=413, kind="image-too-large"
        )
    try:
        image.load()
    except Exception as error:  # Pillow's readers raise what they like; a truncated file fails here
        raise BadSample(f"the image is damaged: {error}", kind="bad-image") from None
    return image


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
