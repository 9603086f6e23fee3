"""The first step: loads the learner, describes its parts, and lets it answer a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from torchrelay.authoring.fastai import module_kinds, picture, tensorfile
from torchrelay.authoring.fastai.inside import answer, load, network
from torchrelay.authoring.fastai.inside.pipeline import Pipeline, vocabulary

_TYPES = {
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.int16: "I16",
    torch.int32: "I32",
    torch.int64: "I64",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float32: "F32",
    torch.float64: "F64",
}
WEIGHTS, OUTPUT = "weights.safetensors", "output.safetensors"


def step(request: dict[str, Any], scratch: Path) -> dict[str, Any]:
    """Return the description and write the tensors. A learner that cannot be exported has only `problems` and `stand_ins`."""
    learner = load.learner(scratch / "learner.pkl")
    if not (hasattr(learner, "dls") and isinstance(getattr(learner, "model", None), torch.nn.Module)):
        return {"problems": [f"it holds a {network.class_name(learner)}, not a Learner"], "stand_ins": load.STAND_INS}
    pipeline = Pipeline(learner)
    resized = pipeline.size is not None
    problems = pipeline.problems
    if resized and request["size"] is not None:
        problems.append("it resizes pictures itself, so --size cannot be given")
    size = pipeline.size or request["size"]
    if size is None:
        problems.append("it does not resize pictures, so their size is unknown: give --size HEIGHTxWIDTH, as in training")
    learner.model.eval()
    problems += network.Description(learner.model).problems
    if problems:
        return {"problems": problems, "stand_ins": load.STAND_INS}
    learner.cbs = type(learner.cbs)(each for each in learner.cbs if not isinstance(each, load.StandIn))
    description = {
        "size": size,
        "fit": pipeline.fit,
        "mean": pipeline.mean,
        "std": pipeline.std,
        "activation": pipeline.activation,
        "vocab": vocabulary(learner),
        "stand_ins": load.STAND_INS,
        "problems": [],
    }
    return description | _answers(learner, scratch, picture.size_for(*size) if resized else tuple(size), pipeline)


def _answers(learner: Any, scratch: Path, pixels: tuple[int, int], pipeline: Pipeline) -> dict[str, Any]:
    example = scratch / "example.png"
    example.write_bytes(picture.png(*pixels))
    batch, output, prediction = answer.predicted(learner, example)
    outputs: dict[str, Any] = {"picture": list(pixels), "channels": int(batch.shape[1]), "outputs": list(output.shape)}
    if output.dim() == 4:
        outputs |= {"task": "segment", "answer": answer.segmented(prediction, output)}
    elif output.dim() == 2:
        outputs |= {"task": "classify", "answer": answer.classified(prediction)}
    else:
        return {"problems": [f"its network returns {list(output.shape)}: neither a class per picture nor a class per pixel"]}
    network.fold(learner.model)
    described = network.Description(learner.model)  # again, because folding has changed the modules
    state = network.tensors(learner.model)
    root = described.root
    if pipeline.presized is not None:
        root = {"kind": module_kinds.PRESIZED, "size": pipeline.presized, "parts": [["network", root]]}
        state = {f"network.{name}": value for name, value in state.items()}
    tensorfile.write(scratch / WEIGHTS, (_bytes(name, value) for name, value in state.items()))
    tensorfile.write(scratch / OUTPUT, [_bytes("output", output.float().contiguous())])
    return outputs | {"network": root, "problems": described.problems}


def _bytes(name: str, value: Tensor) -> tuple[str, str, tuple[int, ...], bytes]:
    raw = value.reshape(-1).view(torch.uint8).numpy().tobytes() if value.numel() else b""
    return name, _TYPES[value.dtype], tuple(value.shape), raw
