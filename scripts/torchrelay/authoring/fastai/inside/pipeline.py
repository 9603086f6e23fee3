"""What happens to a picture before the network and to its output after it, read from a learner's transforms and loss."""

from __future__ import annotations

from typing import Any

from torchrelay.authoring.fastai import module_kinds
from torchrelay.authoring.fastai.inside.network import place

_NOTHING = {
    "fastai.vision.core.ToTensor",
    "fastai.data.transforms.ToTensor",
    "fastai.vision.core.AddMaskCodes",  # touches masks alone
}
_AFFINE = {f"fastai.vision.augment.{name}" for name in ("AffineCoordTfm", "Flip", "Dihedral", "Rotate", "Zoom", "Warp")}
_FITS = {"squish": "stretch", "crop": "crop"}
_BILINEAR = 2  # PIL.Image.Resampling


class Pipeline:
    """Reads a learner; `problems` says what has no counterpart in the handlers.

    `size` and `presized` are (height, width); None where the learner does not resize.
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
                if getattr(transform, "split_idx", None) != 0:  # 0: of training alone
                    self._take(stage, transform)
        factor = self._div / 255.0  # (x / div - mean) / std, for a handler that divides by 255
        self.mean, self.std = [value * factor for value in self.mean], [value * factor for value in self.std]
        self.activation = self._loss(learner.loss_func)

    def _take(self, stage: str, transform: Any) -> None:
        where = place(transform)
        if where in _NOTHING:
            return
        if where == "fastai.vision.augment.Resize" and stage == "after_item":
            self._resize(transform)
        elif where == "fastai.data.transforms.IntToFloatTensor":
            self._div = float(transform.div)
        elif where == "fastai.data.transforms.Normalize":
            self.mean, self.std = (value.flatten().double().tolist() for value in (transform.mean, transform.std))
        elif where in _AFFINE and stage == "after_batch":
            self._affine(transform)
        else:
            self.problems.append(f"{stage} has the transform {where}, which changes pictures when the learner predicts")

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
        """At prediction it turns nothing; with a `size` it resizes the batch."""
        if transform.size is None:
            return
        if transform.mode != "bilinear" or transform.align_corners is not True:
            self.problems.append(f"its {place(transform)} resizes otherwise than bilinear with aligned corners")
        size = transform.size
        self.presized = [int(size)] * 2 if isinstance(size, int) else [int(side) for side in size]

    def _loss(self, loss: Any) -> str:
        where = place(loss)
        activation = module_kinds.LOSSES.get(where)
        if activation is None:
            self.problems.append(f"its loss is a {where}, which says nothing about how outputs become classes")
            return ""
        if own := sorted({"activation", "decodes"} & set(vars(loss))):
            self.problems.append(f"its loss {where} has {' and '.join(own)} of its own")
        if activation == "sigmoid" and getattr(loss, "thresh", 0.5) != 0.5:
            self.problems.append(f"its loss decides at {loss.thresh}; the handlers decide at 0.5")
        return activation


def vocabulary(learner: Any) -> list[str]:
    """The classes' names in the order of the outputs: of the labels, else of the masks; [] when the learner has none."""
    for holder in (learner.dls, *getattr(learner.dls.valid.after_item, "fs", ())):
        try:
            vocab = holder.vocab
            return [str(name) for name in vocab]
        except (AttributeError, TypeError):
            continue
    return []
