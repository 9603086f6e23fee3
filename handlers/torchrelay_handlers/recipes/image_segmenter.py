"""image-segmenter: a picture in; the class of every pixel out, as seed 003's clients know it and as they ask for it."""

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from torchrelay_handlers.classes import read_classes
from torchrelay_handlers.json_out import Raw
from torchrelay_handlers.steps import Steps

PNG = "image/png"


class ImageSegmenterRecipe:
    """float [N, C, H, W] -> [N, classes, H, W] (or a dict with it under `out`, as torchvision's networks answer)."""

    name = "image-segmenter"

    def steps(self, options: Mapping[str, Any], model_dir: Path, dtype: torch.dtype | None) -> Steps:
        """See Recipe."""
        from torchrelay_handlers.pictures import Pictures  # noqa: PLC0415 - Pillow is needed by handlers of images alone

        pictures = Pictures(options, dtype)
        masks = Masks(read_classes(options["classes"], model_dir), tuple(options["answer"]))
        return Steps(
            pictures,
            masks,
            pictures.network_input,
            prepare=pictures.normalize,
            conclude=masks.conclude,
            gather=pictures.gather,
            render=Mask.render,
            example=pictures.example,
            check_example=masks.check,
        )


@dataclass(frozen=True, slots=True)
class Mask:
    """uint8 [H, W] of class indexes, and what is said of it; a client that accepts image/png alone gets the picture alone."""

    classes: Tensor
    answer: dict[str, object]

    def render(self, accept: str) -> object:
        """The answer for the `Accept` header of the request."""
        return Raw(png(self.classes), PNG) if accept.partition(";")[0].strip().lower() == PNG else self.answer


class Masks:
    """Makes the class of every pixel of a network's output: of one channel by its sign, of several the largest one's index."""

    def __init__(self, names: list[str] | None, answer: tuple[str, ...]) -> None:
        self.names = names
        self.answer = answer
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
        """Refuse to start when the network and the list of classes disagree, or a byte cannot tell the classes apart."""
        count = max(2, self.channels)
        if count > 256:
            raise RuntimeError(f"the network tells {count} classes apart, and a mask of bytes at most 256")
        if self.names is not None and len(self.names) != count:
            raise RuntimeError(f"the network tells {count} classes apart, and `classes` names {len(self.names)}")

    def __call__(self, output: Tensor) -> object:
        """See the class."""
        mask = output.contiguous()
        said: dict[str, object] = {}
        for part in self.answer:
            if part == "mask":  # row by row, one byte a pixel: seed 003's name and form
                said["base64_prediction"] = base64.b64encode(mask.numpy().tobytes()).decode()
            elif part == "size":
                said["size"] = list(mask.shape)
            elif part == "png":
                said["png"] = base64.b64encode(png(mask)).decode()
            else:
                said["classes"] = self._present(mask)
        return Mask(mask, said)

    def _present(self, mask: Tensor) -> list[object]:
        """The classes that are there, the largest first."""
        counts = torch.bincount(mask.flatten().int())
        found = [(int(pixels), place) for place, pixels in enumerate(counts.tolist()) if pixels]
        return [
            {
                "index": place,
                "class": self.names[place] if self.names else str(place),
                "pixels": pixels,
                "share": pixels / mask.numel(),
            }
            for pixels, place in sorted(found, key=lambda item: (-item[0], item[1]))
        ]


def png(mask: Tensor) -> bytes:
    """A PNG of uint8 [H, W] whose pixel values are the class indexes, shown in the colours of the PASCAL VOC data set."""
    from PIL import Image  # noqa: PLC0415 - as above

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
