"""Imports the Python files of a model: its handler, its model file, its tokenizer."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType


def import_file(model_dir: Path, file: str) -> ModuleType:
    """Import `file` of the model under its own name, its folder on the path, as TorchServe would.

    Raises:
        RuntimeError: it is not there. The file's own exceptions pass through with their traceback.
    """
    path = (model_dir / file).resolve()
    if not path.is_file():
        raise RuntimeError(f"{file} is not in the model's folder")
    for folder in (str(path.parent), str(model_dir.resolve())):
        if folder not in sys.path:
            sys.path.insert(0, folder)
    loaded = sys.modules.get(path.stem)
    if loaded is not None and getattr(loaded, "__file__", None) == str(path):
        return loaded
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise RuntimeError(f"{file} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[path.stem]
        raise
    return module
