"""The BentoML peer's services."""

# mypy: ignore-errors
# Its package and types are installed only in the peers' environment.

import os
from typing import Annotated

import bentoml
import numpy
import torch
from bentoml.validators import DType, Shape
from PIL.Image import Image

from benchmarks.serving_peers.apps import model

BATCH = int(os.environ["SERVING_BATCH"])
FEATURES = {"mlp": 512, "tiny": 10}.get(model.workload(), 1)
OPTIONS = {
    "workers": int(os.environ["SERVING_PROCESSES"]),
    "logging": {"access": {"enabled": False}},
    "metrics": {"enabled": False},
}


@bentoml.service(**OPTIONS)
class Numbers:
    def __init__(self):
        self.network = model.load()

    @bentoml.api(batchable=BATCH > 1, max_batch_size=max(2, BATCH), max_latency_ms=1000)
    def predict(self, batch: Annotated[numpy.ndarray, Shape((-1, FEATURES)), DType("float32")]) -> list[list[float]]:
        return model.numbers(self.network, torch.from_numpy(batch))


@bentoml.service(**OPTIONS)
class Pictures:
    def __init__(self):
        self.network = model.load()

    @bentoml.api(batchable=BATCH > 1, max_batch_size=max(2, BATCH), max_latency_ms=10000)
    def predict(self, batch: list[Image]) -> list[dict]:
        return model.classify(self.network, [model.pixels(one) for one in batch])
