"""Loads single modules of the handler library: those that import nothing but Python's own."""

import importlib.util
import sys
from typing import Any

from torchrelay.core import paths


def load(module_name: str) -> Any:
    """The module by its path: the library goes into images and is not installed beside this command."""
    name = f"torchrelay_handlers_{module_name}".replace("/", "_")
    spec = importlib.util.spec_from_file_location(name, paths.HANDLERS / f"{module_name}.py")
    if spec is None or spec.loader is None:
        raise ImportError(f"{paths.HANDLERS}/{module_name}.py is missing: the checkout is incomplete")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
