"""tensor: numbers in, numbers out."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from torchrelay_handlers.bodies.decode import NPY, unwrapped
from torchrelay_handlers.bodies.tensors import NetworkInput
from torchrelay_handlers.recipes.classes import CONCLUSIONS
from torchrelay_handlers.steps import Steps, input_of, same


class TensorRecipe:
    """Numbers in, numbers out."""

    name = "tensor"

    def steps(self, options: Mapping[str, Any], model_dir: Path, dtype: torch.dtype | None) -> Steps:  # noqa: ARG002 - Recipe's signature
        """See Recipe."""
        network_input = input_of(options, dtype)
        conclude = CONCLUSIONS[options["output"]]
        return Steps(
            unwrapped,
            same,
            network_input,
            conclude=conclude,
            expand=_Expand(network_input) if network_input.shape is not None else None,
            example=_example(network_input),
            takes=("text/csv", "text/plain", *NPY),
        )


RECIPE = TensorRecipe()


class _Expand:
    """Finds [N, *shape] in a body where `shape` is one sample: the form that SageMaker's and numpy's clients send."""

    def __init__(self, network_input: NetworkInput) -> None:
        self.depth = len(network_input.shape or ())

    def __call__(self, value: object) -> list[object] | None:
        rows = unwrapped(value)
        depth, inner = 0, rows
        while isinstance(inner, list) and inner and depth <= self.depth:
            inner = inner[0]
            depth += 1
        if getattr(rows, "ndim", None) == self.depth + 1 and len(rows):  # type: ignore[arg-type] # an .npy body; without rows there is no sample
            return list(rows)  # type: ignore[call-overload, no-any-return] # an array, whose package is optional
        return rows if isinstance(rows, list) and depth == self.depth + 1 and not isinstance(inner, list) else None


def _example(network_input: NetworkInput) -> Tensor | None:
    shape = network_input.shape
    if shape is None or None in shape:
        return None
    return torch.zeros([size for size in shape if size is not None], dtype=network_input.dtype or torch.float32)
