"""The part that the peers' apps share: the network with its weights, and the steps around it for pictures, with few copies.

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
    """Return the workload's network with the weights of all servers; it uses `SERVING_THREADS` threads."""
    torch.set_num_threads(int(os.environ["SERVING_THREADS"]))
    network = init_function(workload())
    network.load_state_dict(torch.load(Path(os.environ["SERVING_FOLDER"]) / "model.pt", weights_only=True, mmap=True))
    return network.eval().requires_grad_(False)


def decode(body: bytes) -> Tensor:
    """Return a JPEG as uint8 [3, 224, 224]."""
    return pixels(Image.open(io.BytesIO(body)))


def pixels(image: Image.Image) -> Tensor:
    """Return a picture as uint8 [3, H, W]."""
    rgb = image if image.mode == "RGB" else image.convert("RGB")
    flat = torch.frombuffer(bytearray(rgb.tobytes()), dtype=torch.uint8)
    return flat.view(rgb.height, rgb.width, 3).permute(2, 0, 1)


def normalise(pictures: Sequence[Tensor]) -> Tensor:
    """Return pictures as float32 [N, 3, H, W], normalised with ImageNet's statistics."""
    return torch.stack(list(pictures)).float().mul_(SCALE).add_(SHIFT)


def numbers(network: nn.Module, batch: Tensor) -> list[list[float]]:
    """Return the answers of mlp and tiny."""
    with torch.inference_mode():
        answers: list[list[float]] = network(batch).tolist()
    return answers


def conclude(logits: Tensor) -> list[dict[str, Any]]:
    """Return the likeliest class of each row and its confidence."""
    confidence, classes = logits.softmax(-1).max(-1)
    rows = zip(classes.tolist(), confidence.tolist(), strict=True)
    return [{"class": str(index), "confidence": value} for index, value in rows]


def classify(network: nn.Module, pictures: Sequence[Tensor]) -> list[dict[str, Any]]:
    """Return the answers of the workload image."""
    with torch.inference_mode():
        return conclude(network(normalise(pictures)))
