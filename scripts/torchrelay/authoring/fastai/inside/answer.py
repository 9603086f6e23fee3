"""The learner's own answer to a picture, in the form of the handlers' answers."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

UNSURE = 1e-3  # of the scores: a pixel whose two likeliest classes are closer than this may get the other one on another machine


def predicted(learner: Any, picture: Path) -> tuple[Tensor, Tensor, Any]:
    """Return the network's input for a picture, the network's output, and the result of `learner.predict`."""
    loader = learner.dls.test_dl([picture], num_workers=0)
    batch = loader.one_batch()[0].as_subclass(Tensor)
    learner.model.eval()
    with torch.no_grad(), learner.no_bar():
        output = learner.model(batch)
        prediction = learner.predict(picture)
    return batch, output.as_subclass(Tensor), prediction


def classified(prediction: Any) -> dict[str, Any]:
    """Return the confidences, one per class."""
    return {"confidences": [float(value) for value in prediction[2].as_subclass(Tensor).flatten()]}


def segmented(prediction: Any, output: Tensor) -> dict[str, Any]:
    """Return the mask, how many of its pixels are unsure, and which other classes those could have."""
    mask = prediction[1].as_subclass(Tensor)
    if output.shape[1] == 1:
        mask = mask.reshape(mask.shape[-2:]).long()
        unsure, second = output[0, 0].abs() < UNSURE, 1 - mask
    else:
        scores, classes = output[0].topk(2, dim=0)
        unsure, second = scores[0] - scores[1] < UNSURE, classes[1]
    return {
        "size": [int(side) for side in mask.shape],
        "mask": base64.b64encode(mask.to(torch.uint8).contiguous().numpy().tobytes()).decode(),
        "unsure": int(unsure.sum()),
        "rivals": sorted({int(index) for index in second[unsure]}),
    }
