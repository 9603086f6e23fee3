"""Reads from a learner's transforms and loss what happens to a picture before the network and to the output after it."""

from __future__ import annotations

from typing import Any

from torchrelay.authoring.fastai import module_kinds
from torchrelay.authoring.fastai.inside.network import class_name

_NOTHING = {
    "fastai.vision.core.ToTensor",
    "fastai.data.transforms.ToTensor",
    "fastai.vision.core.AddMaskCodes",  # changes only masks
}
_AFFINE = {f"fastai.vision.augment.{name}" for name in ("AffineCoordTfm", "Flip", "Dihedral", "Rotate", "Zoom", "Warp")}
_FITS = {"squish": "stretch", "crop": "crop"}
_BILINEAR = 2  # PIL.Image.Resampling


class Pipeline:
    """A learner's steps around the network; `problems` lists those that the handlers do not have.

    `size` and `presized` are (height, width); None if the learner does not resize.
    """

    def __init__(self, learner: Any) -> None:
        self.problems: list[str] = []
        self.size: list[int] | None = None
        self.fit = "stretch"
        self.presized: list[int] | None = None
        self.mean: list[float] = [0.0]
        self.std: list[float] = [1.0]
        self._div = 255.0
        loader = learner.dls.valid
        for stage in ("after_item", "before_batch", "after_batch"):
            for transform in getattr(getattr(loader, stage, None), "fs", ()):
                if getattr(transform, "split_idx", None) != 0:  # 0: only in training
                    self._take(stage, transform)
        factor = self._div / 255.0  # (x / div - mean) / std, for a handler that divides by 255
        self.mean, self.std = [value * factor for value in self.mean], [value * factor for value in self.std]
        self.activation = self._loss(learner.loss_func)

    def _take(self, stage: str, transform: Any) -> None:
        name = class_name(transform)
        if name in _NOTHING:
            return
        if name == "fastai.vision.augment.Resize" and stage == "after_item":
            self._resize(transform)
        elif name == "fastai.data.transforms.IntToFloatTensor":
            self._div = float(transform.div)
        elif name == "fastai.data.transforms.Normalize":
            self.mean, self.std = (value.flatten().double().tolist() for value in (transform.mean, transform.std))
        elif name in _AFFINE and stage == "after_batch":
            self._affine(transform)
        else:
            self.problems.append(f"{stage} has the transform {name}, which changes pictures when the learner predicts")

    def _resize(self, transform: Any) -> None:
        method = str(transform.method)
        if method not in _FITS:
            self.problems.append(f"its Resize has the method {method}; the handlers know squish and crop")
        if int(transform.mode) != _BILINEAR:
            self.problems.append("its Resize is not bilinear")
        if self.size is not None:
            self.problems.append("it has two Resize transforms")
        width, height = transform.size
        self.size, self.fit = [int(height), int(width)], _FITS.get(method, "stretch")

    def _affine(self, transform: Any) -> None:
        """In prediction it does not rotate or warp; with a `size` it resizes the batch."""
        if transform.size is None:
            return
        if transform.mode != "bilinear" or transform.align_corners is not True:
            self.problems.append(f"its {class_name(transform)} does not resize bilinearly with aligned corners")
        size = transform.size
        self.presized = [int(size)] * 2 if isinstance(size, int) else [int(side) for side in size]

    def _loss(self, loss: Any) -> str:
        name = class_name(loss)
        activation = module_kinds.LOSSES.get(name)
        if activation is None:
            self.problems.append(f"its loss is a {name}, which does not define how outputs become classes")
            return ""
        if own := sorted({"activation", "decodes"} & set(vars(loss))):
            self.problems.append(f"its loss {name} has its own {' and '.join(own)}")
        if activation == "sigmoid" and getattr(loss, "thresh", 0.5) != 0.5:
            self.problems.append(f"its loss decides at {loss.thresh}; the handlers decide at 0.5")
        return activation


def vocabulary(learner: Any) -> list[str]:
    """Return the class names in the order of the outputs, from the labels, otherwise from the masks; [] if there are none."""
    for holder in (learner.dls, *getattr(learner.dls.valid.after_item, "fs", ())):
        try:
            vocab = holder.vocab
            return [str(name) for name in vocab]
        except (AttributeError, TypeError):
            continue
    return []
