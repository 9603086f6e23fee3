"""The second step: the model file and the weights as the handler library takes them, held against what the learner answered.

Nothing is unpickled here; the weights are written once more as a state_dict, which can be mapped into memory.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from torchrelay.authoring.fastai import picture, tensorfile
from torchrelay.authoring.fastai.inside.read import _TYPES, OUTPUT, WEIGHTS

STATE = "model.pt"


def step(asked: dict[str, Any], scratch: Path) -> dict[str, Any]:
    """The largest difference of an output number, and the largest output."""
    from torchrelay_handlers.bodies import images  # noqa: PLC0415 -- from the folder that the caller names
    from torchrelay_handlers.network import loading  # noqa: PLC0415 -- from the folder that the caller names

    state = tensors(scratch / WEIGHTS)
    model = loading.fill(_init_function(scratch / "model.py"), state, WEIGHTS).eval()
    height, width = asked["size"]
    image = images.to_mode(images.decode(picture.png(*asked["picture"])), asked["mode"])
    batch = images.as_tensor(images.fit(image, height, width, stretch=asked["fit"] == "stretch"))[None]
    normalize = images.normalizer(asked["mean"], asked["std"], batch.shape[1], torch.float32)
    with torch.inference_mode():
        output = model(normalize(batch))
    wanted = tensors(scratch / OUTPUT)["output"]
    if output.shape != wanted.shape:
        raise RuntimeError(f"the exported network answers {list(output.shape)}, the learner's {list(wanted.shape)}")
    torch.save(model.state_dict(), scratch / STATE)
    return {"difference": float((output - wanted).abs().max()), "largest": float(wanted.abs().max())}


def _init_function(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location("model", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made: nn.Module = module.init_function()
    return lambda: made


def tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file that `read` wrote."""
    blob = bytearray(path.read_bytes())
    types = {name: dtype for dtype, name in _TYPES.items()}
    found = {}
    for name, entry in tensorfile.read(path).items():
        flat = (
            torch.frombuffer(blob, dtype=torch.uint8, offset=entry.start, count=entry.end - entry.start)
            if entry.end > entry.start
            else torch.empty(0, dtype=torch.uint8)
        )
        found[name] = flat.clone().view(types[entry.dtype]).reshape(entry.shape)
    return found
