"""A handler whose setup functions use os.system, and whose network needs the files that they write."""

import os
from pathlib import Path

import model
import torch

from torchrelay_handlers import handler_factory


def install_packages():
    """Comes after the requirements, and lets pip install what was packed along."""
    import relay_test_words  # noqa: F401 -- importing it is the test

    os.system("pip install --no-deps setup_test_words-1.0-py3-none-any.whl")  # noqa: S605 -- as model authors write it


def unpack_dependencies():
    """Comes after install_packages; the current folder is the model's."""
    import setup_test_words  # noqa: F401 -- importing it is the test

    os.system("python -m zipfile -e names.zip unpacked")  # noqa: S605 -- as above


def init_function(width):
    """Comes last."""
    import setup_test_words  # noqa: F401 -- importing it is the test

    return model.init_function(width)


def preprocess(sample):
    return torch.tensor(sample, dtype=torch.float32).reshape(1, 8, 8)


def postprocess(output):
    import setup_test_words

    names = Path(__file__).with_name("unpacked") / "names.txt"
    return {"scores": len(output), "names": names.read_text().split(), "from": setup_test_words.__file__.split("/")[3]}


handler = handler_factory(init_function, preprocess, postprocess, install_packages, unpack_dependencies)
