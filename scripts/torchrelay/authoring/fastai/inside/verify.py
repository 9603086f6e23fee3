"""The second step: loads the model file and the weights as the handler library does, and compares with the learner's output.

Nothing is unpickled here. The weights are also written as a state_dict, which can be mapped into memory.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from torchrelay.authoring.fastai import picture, tensorfile
from torchrelay.authoring.fastai.inside.read import _TYPES, OUTPUT, WEIGHTS
from torchrelay_handlers.bodies import images
from torchrelay_handlers.network import loading

STATE = "model.pt"


def step(request: dict[str, Any], scratch: Path) -> dict[str, Any]:
    """Return the largest difference of an output number, and the largest output."""
    state = tensors(scratch / WEIGHTS)
    model = loading.fill(_init_function(scratch / "model.py"), state, WEIGHTS).eval()
    height, width = request["size"]
    image = images.to_mode(images.decode(picture.png(*request["picture"])), request["mode"])
    batch = images.as_tensor(images.fit(image, height, width, stretch=request["fit"] == "stretch"))[None]
    normalize = images.normalizer(request["mean"], request["std"], batch.shape[1], torch.float32)
    with torch.inference_mode():
        output = model(normalize(batch))
    expected = tensors(scratch / OUTPUT)["output"]
    if output.shape != expected.shape:
        raise RuntimeError(f"the exported network returns {list(output.shape)}, the learner's network {list(expected.shape)}")
    torch.save(model.state_dict(), scratch / STATE)
    return {"difference": float((output - expected).abs().max()), "largest": float(expected.abs().max())}


def _init_function(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location("model", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    network: nn.Module = module.init_function()
    return lambda: network


def tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file that `read` wrote."""
    blob = bytearray(path.read_bytes())
    types = {name: dtype for dtype, name in _TYPES.items()}
    values = {}
    for name, entry in tensorfile.read(path).items():
        flat = (
            torch.frombuffer(blob, dtype=torch.uint8, offset=entry.start, count=entry.end - entry.start)
            if entry.end > entry.start
            else torch.empty(0, dtype=torch.uint8)
        )
        values[name] = flat.clone().view(types[entry.dtype]).reshape(entry.shape)
    return values
