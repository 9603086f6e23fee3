"""Per-sample functions and `handler_factory`: the library does the batches, the weights, the device and the errors."""

import torch
from model import ResNet
from PIL import Image
from torch import Tensor

from torchrelay_handlers import handler_factory

CATEGORIES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def init_function(resnet_layers: int = 8) -> ResNet:
    """The network without weights; the state_dict is loaded into it."""
    return ResNet(resnet_layers)


def preprocess(picture: Image.Image) -> Tensor:
    """One picture of any size -> float32 [1, 32, 32], mean 0.5 and deviation 0.5 taken out."""
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
