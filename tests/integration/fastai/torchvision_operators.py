"""Lets torchvision be imported beside a CPU build of torch: for the tests' environment alone.

The index has torchvision built for CUDA. Its compiled part does not load beside a CPU torch, and importing it then fails with
`operator torchvision::nms does not exist`, as it describes operators that nobody declared. Here they are declared, without an
implementation: object detection does not work, and its networks, which are Python, do. It can go as soon as the index has a
torchvision for CPUs, or one that imports without its compiled part.
"""

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

OPERATORS = tuple(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor" for name in ("nms", "qnms"))


class Declaring(MetaPathFinder):
    """Finds nothing; declares the operators when torchvision is first asked for, as importing torch at every start is slow."""

    libraries: list[Any] = []  # noqa: RUF012 -- a library's operators end with it, so it is kept for good

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,  # noqa: ARG002 -- importlib's signature
        target: ModuleType | None = None,  # noqa: ARG002 -- the same
    ) -> ModuleSpec | None:
        """Leave every module to the finders that follow."""
        if fullname == "torchvision":
            sys.meta_path.remove(self)
            import torch

            library: Any = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call] # torch's own
            for operator in OPERATORS:
                library.define(operator)
            self.libraries.append(library)
        return None


sys.meta_path.insert(0, Declaring())
