"""The examples' recorded samples, through their handlers, alone and all at once; no server."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.start_handler import start_handler
from torchrelay.model.model import load_model
from torchrelay.model.samples import load_samples
from torchrelay.verification.compare import compare
from torchrelay_handlers import Request

EXAMPLES = Path(__file__).parents[3] / "examples"


@pytest.fixture(autouse=True)
def clean_imports() -> Iterator[None]:
    path = list(sys.path)
    for name in ("model", "handler"):
        sys.modules.pop(name, None)
    yield
    sys.path[:] = path
    for name in ("model", "handler"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("name", ["digits", "resnet-factory", "segmentation", "tabular"])
def test_samples_are_answered_as_recorded(name: str) -> None:
    folder = EXAMPLES / name
    model = load_model(folder)
    handler = start_handler(folder)
    samples = load_samples(folder, model)
    requests = [Request(sample.body, sample.content_type) for sample in samples]
    alone = [handler.answer([request])[0] for request in requests]
    for answers in (alone, handler.answer(requests), handler.answer(requests * 3)[-len(requests) :]):
        for sample, answer in zip(samples, answers, strict=True):
            assert compare(sample, answer.status, answer.content_type, answer.body, 0.0) == [], sample.name
