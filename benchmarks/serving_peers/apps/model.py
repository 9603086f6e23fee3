"""What each peer's app runs: the network with its weights, and for pictures the steps around it; as few copies as ours makes.

Imported in the peers' own environment. SERVING_FOLDER is the folder of weights and samples, SERVING_WORKLOAD the workload.
"""

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from benchmarks.serving_peers.apps.network import init_function

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SCALE = torch.tensor([1 / (255 * one) for one in STD]).view(1, 3, 1, 1)
SHIFT = torch.tensor([-mean / std for mean, std in zip(MEAN, STD, strict=True)]).view(1, 3, 1, 1)


def workload() -> str:
    return os.environ["SERVING_WORKLOAD"]


def load() -> nn.Module:
    """Return the workload's network with the weights that all servers have; one thread for each of `SERVING_THREADS`."""
    torch.set_num_threads(int(os.environ["SERVING_THREADS"]))
    network = init_function(workload())
    network.load_state_dict(torch.load(Path(os.environ["SERVING_FOLDER"]) / "model.pt", weights_only=True, mmap=True))
    return network.eval().requires_grad_(False)


def decode(body: bytes) -> Tensor:
    """Return uint8 [3, 224, 224] of a JPEG."""
    return pixels(Image.open(io.BytesIO(body)))


def pixels(image: Image.Image) -> Tensor:
    """Return uint8 [3, H, W] of a picture."""
    rgb = image if image.mode == "RGB" else image.convert("RGB")
    flat = torch.frombuffer(bytearray(rgb.tobytes()), dtype=torch.uint8)
    return flat.view(rgb.height, rgb.width, 3).permute(2, 0, 1)


def normalise(pictures: Sequence[Tensor]) -> Tensor:
    """Return float32 [N, 3, H, W] of pictures by ImageNet's statistics."""
    return torch.stack(list(pictures)).float().mul_(SCALE).add_(SHIFT)


def numbers(network: nn.Module, batch: Tensor) -> list[list[float]]:
    """Return the answers of mlp and tiny."""
    with torch.inference_mode():
        answers: list[list[float]] = network(batch).tolist()
    return answers


def conclude(logits: Tensor) -> list[dict[str, Any]]:
    """Return the likeliest class of each row and its confidence."""
    confidence, places = logits.softmax(-1).max(-1)
    found = zip(places.tolist(), confidence.tolist(), strict=True)
    return [{"class": str(place), "confidence": value} for place, value in found]


def classify(network: nn.Module, pictures: Sequence[Tensor]) -> list[dict[str, Any]]:
    """Return the answers of image."""
    with torch.inference_mode():
        return conclude(network(normalise(pictures)))
