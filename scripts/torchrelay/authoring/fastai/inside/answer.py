"""What the learner itself answers to a picture, in the form that the handlers answer."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

UNSURE = 1e-3  # of the scores: pixels whose two likeliest classes are nearer than this may turn out otherwise elsewhere


def predicted(learner: Any, picture: Path) -> tuple[Tensor, Tensor, Any]:
    """What the network is given for a picture, what it answers, and what `learner.predict` answers."""
    loader = learner.dls.test_dl([picture], num_workers=0)
    batch = loader.one_batch()[0].as_subclass(Tensor)
    learner.model.eval()
    with torch.no_grad(), learner.no_bar():
        output = learner.model(batch)
        said = learner.predict(picture)
    return batch, output.as_subclass(Tensor), said


def classified(said: Any) -> dict[str, Any]:
    """The confidences, one per class."""
    return {"confidences": [float(value) for value in said[2].as_subclass(Tensor).flatten()]}


def segmented(said: Any, output: Tensor) -> dict[str, Any]:
    """The mask, how many of its pixels are a near thing, and which classes those could have had as well."""
    mask = said[1].as_subclass(Tensor)
    if output.shape[1] == 1:
        mask = mask.reshape(mask.shape[-2:]).long()
        unsure, second = output[0, 0].abs() < UNSURE, 1 - mask
    else:
        scores, places = output[0].topk(2, dim=0)
        unsure, second = scores[0] - scores[1] < UNSURE, places[1]
    return {
        "size": [int(side) for side in mask.shape],
        "mask": base64.b64encode(mask.to(torch.uint8).contiguous().numpy().tobytes()).decode(),
        "unsure": int(unsure.sum()),
        "rivals": sorted({int(place) for place in second[unsure]}),
    }
