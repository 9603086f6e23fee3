"""Per-sample functions and `handler_factory`: the library handles batches, weights, the device and errors."""

import torch
from model import ResNet
from PIL import Image
from torch import Tensor

from torchrelay_handlers import handler_factory

CATEGORIES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def init_function(resnet_layers: int = 8) -> ResNet:
    """Make the network without weights; the state_dict is loaded into it."""
    return ResNet(resnet_layers)


def preprocess(picture: Image.Image) -> Tensor:
    """One picture of any size -> float32 [1, 32, 32], normalised with mean 0.5 and standard deviation 0.5."""
    grey = picture.convert("L").resize((32, 32), Image.Resampling.BICUBIC)
    pixels = torch.frombuffer(bytearray(grey.tobytes()), dtype=torch.uint8).view(1, 32, 32)
    return (pixels.float() / 255 - 0.5) / 0.5


def postprocess(output: Tensor) -> tuple[float, int, str]:
    """float32 [10] logits -> score, class id and category name."""
    prediction = output.softmax(0)
    class_id = int(prediction.argmax())
    return float(prediction[class_id]), class_id, CATEGORIES[class_id]


handler = handler_factory(
    init_function=init_function,
    preprocess_function=preprocess,
    postprocess_function=postprocess,
    options={"input": "image"},
    resnet_layers=8,
)
