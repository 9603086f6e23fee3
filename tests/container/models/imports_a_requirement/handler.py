"""A handler that needs a package which only the requirements file brings."""

from pathlib import Path

import relay_test_words
import torch
from model import init_function  # noqa: F401 -- the library looks for it here


def preprocess(sample):
    return torch.tensor(sample, dtype=torch.float32).reshape(1, 8, 8)


def postprocess(output):
    return {"words": len(relay_test_words.WORDS), "scores": len(output), "from": Path(relay_test_words.__file__).parts[3]}
