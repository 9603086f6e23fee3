"""Classes and confidences: the answers of all classifiers."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from torchrelay_handlers.problems import Refusal
from torchrelay_handlers.recipes.classnames import read_classes

__all__ = ["CONCLUSIONS", "Classes", "argmax", "read_classes", "softmax"]


def softmax(output: Any) -> Any:
    """Over the last dimension."""
    return output.softmax(-1)


def argmax(output: Any) -> Any:
    """Over the last dimension."""
    return output.argmax(-1)


CONCLUSIONS: dict[str, Callable[[Any], Any] | None] = {
    "values": None,
    "none": None,
    "softmax": softmax,
    "sigmoid": torch.sigmoid,
    "argmax": argmax,
}
"""The function that a batch of outputs goes through on its device, by the word in model.yaml."""


class Classes:
    """Makes `{"class": ..., "confidence": ...}` from confidences, float [C]; with `top_k` > 1 also `top`, that many of them."""

    def __init__(self, names: list[str] | None, top_k: int) -> None:
        self.names = names
        self.top_k = top_k

    def check(self, output: Any) -> None:
        """Refuse to start when the network and the list of classes disagree."""
        if not isinstance(output, Tensor) or output.dim() != 1:
            shape = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise RuntimeError(f"a classifier needs one number per class, and the network answers {shape} to one sample")
        if self.names is not None and len(self.names) != output.numel():
            raise RuntimeError(f"the network has {output.numel()} classes, and `classes` names {len(self.names)}")

    def __call__(self, output: Tensor) -> object:
        """See the class."""
        values, places = output.topk(min(self.top_k, output.numel()))
        confidences = values.tolist()
        if confidences[0] != confidences[0]:  # NaN: the network's fault, and no class is likeliest
            raise Refusal(500, "not-finite", "the network's confidences are not numbers")
        top = [
            {"class": self.names[place] if self.names is not None else str(place), "confidence": confidence}
            for place, confidence in zip(places.tolist(), confidences, strict=True)
        ]
        return top[0] if self.top_k == 1 else {**top[0], "top": top}
