"""image-segmenter: a picture in; the class of every pixel out, as a byte mask in base64, a PNG, or both."""

import base64
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from torchrelay_handlers.bodies.image_input import TAKES, Pictures
from torchrelay_handlers.bodies.json_out import Raw
from torchrelay_handlers.problems import BadSample
from torchrelay_handlers.recipes.classes import read_classes
from torchrelay_handlers.steps import AnswerContext, Steps

PNG = "image/png"


class ImageSegmenterRecipe:
    """float [N, C, H, W] -> [N, classes, H, W] (or a dict with it under `out`, as torchvision's networks answer)."""

    name = "image-segmenter"

    def steps(self, options: Mapping[str, Any], model_dir: Path, dtype: torch.dtype | None) -> Steps:
        """See Recipe."""
        if options["mask_size"] == "input" and options["fit"] != "stretch":
            raise ValueError("handler_args.mask_size: input needs fit: stretch; what a crop cuts off has no mask")
        pictures = Pictures(options, dtype, noted=True)
        masks = Masks(read_classes(options["classes"], model_dir), options)
        return Steps(
            pictures,
            masks,
            pictures.network_input,
            prepare=pictures.normalize,
            conclude=masks.conclude,
            gather=pictures.gather,
            admit=pictures.admit,
            render=masks.render,
            example=pictures.example,
            check_example=masks.check,
            takes=TAKES,
        )


RECIPE = ImageSegmenterRecipe()


class Masks:
    """Makes a mask from a network's output: one channel gives the class by its sign, several by the index of the largest."""

    def __init__(self, names: list[str] | None, options: Mapping[str, Any]) -> None:
        self.names = names
        self.answer: list[str] = options["answer"]
        self.mask_size: str = options["mask_size"]
        self.stretched: bool = options["fit"] == "stretch"
        self.max_pixels: int = options["max_mask_pixels"]
        self.channels = 0

    def conclude(self, output: Any) -> Tensor:
        """uint8 [N, H, W], on the network's device: an eighth of the bytes of the indexes that argmax makes."""
        scores: Tensor = output["out"] if isinstance(output, Mapping) and "out" in output else output
        if not isinstance(scores, Tensor) or scores.dim() != 4:
            shape = list(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
            raise ValueError(f"image-segmenter needs [N, classes, H, W] of the network, and it answers {shape}")
        self.channels = scores.shape[1]
        return (scores[:, 0] > 0 if self.channels == 1 else scores.argmax(1)).to(torch.uint8)

    def check(self, _: Tensor) -> None:
        """Refuse to start when the network and the list of classes disagree, or a byte cannot hold every class."""
        count = max(2, self.channels)
        if count > 256:
            raise RuntimeError(f"the network has {count} classes, and a mask of bytes holds at most 256")
        if self.names is not None and len(self.names) != count:
            raise RuntimeError(f"the network has {count} classes, and `classes` names {len(self.names)}")

    def __call__(self, output: Tensor) -> Tensor:
        """uint8 [H, W] of class indexes, in one piece."""
        return output.contiguous()

    def render(self, mask: Tensor, context: AnswerContext) -> object:
        """The members that model.yaml's `answer` lists; the PNG alone for a client that accepts image/png alone.

        A parameter of the `Accept` header sets the mask's size, `size=input` or `size=network`, for JSON as well:
        `Accept: image/png; size=input`.
        """
        accept, *parameters = (part.strip().lower() for part in context.accept.split(";"))
        size = next((part[5:].strip('"') for part in parameters if part.startswith("size=")), self.mask_size)
        if size not in ("input", "network"):
            sizes = {"size": ["input", "network"]}
            raise BadSample(f"the mask size {size[:40]!r} is not supported", expected=sizes, status=406, kind="not-acceptable")
        if size == "input":
            mask = self._scaled(mask, context.note)
        return Raw(png(mask), PNG) if context.alone and accept == PNG else self._members(mask)

    def _scaled(self, mask: Tensor, size: Any) -> Tensor:
        """The mask at the height and width that the picture was sent with: every pixel takes the class of the nearest one."""
        if not self.stretched:
            raise BadSample("this model crops pictures: its masks have the network's size", status=406, kind="not-acceptable")
        height, width = size
        if height * width > self.max_pixels:
            wanted = {"max_mask_pixels": self.max_pixels}
            raise BadSample(f"a mask of {width} x {height} pixels is too large", expected=wanted, status=413, kind="mask-too-large")
        image = Image.frombytes("L", (mask.shape[1], mask.shape[0]), mask.numpy().tobytes())
        scaled = bytearray(image.resize((width, height), Image.Resampling.NEAREST).tobytes())
        return torch.frombuffer(scaled, dtype=torch.uint8).view(height, width)

    def _members(self, mask: Tensor) -> dict[str, object]:
        members: dict[str, object] = {}
        for part in self.answer:
            if part == "mask":  # row by row, one byte a pixel; existing clients of segmentation models know this name and form
                members["base64_prediction"] = base64.b64encode(mask.numpy().tobytes()).decode()
            elif part == "size":
                members["size"] = list(mask.shape)
            elif part == "png":
                members["png"] = base64.b64encode(png(mask)).decode()
            else:
                members["classes"] = self._present(mask)
        return members

    def _present(self, mask: Tensor) -> list[object]:
        """The classes that are there, the largest first."""
        counts = torch.bincount(mask.flatten().int())
        present = [(int(pixels), place) for place, pixels in enumerate(counts.tolist()) if pixels]
        return [
            {
                "index": place,
                "class": self.names[place] if self.names else str(place),
                "pixels": pixels,
                "share": pixels / mask.numel(),
            }
            for pixels, place in sorted(present, key=lambda item: (-item[0], item[1]))
        ]


def png(mask: Tensor) -> bytes:
    """A PNG of uint8 [H, W] whose pixel values are the class indexes, shown in the colours of the PASCAL VOC data set."""
    image = Image.frombytes("P", (mask.shape[1], mask.shape[0]), mask.numpy().tobytes())
    image.putpalette(_palette())
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _palette() -> bytes:
    """256 colours that tell neighbouring indexes apart: the bits of the index, spread over red, green and blue."""
    colours = bytearray()
    for index in range(256):
        for channel in range(3):
            colours.append(sum((index >> (3 * bit + channel) & 1) << (7 - bit) for bit in range(3)))
    return bytes(colours)
