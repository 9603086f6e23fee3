"""The MLServer peer's runtime."""

# mypy: ignore-errors
# Its package and types are installed only in the peers' environment.

import base64

import numpy
import torch
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceResponse

from benchmarks.serving_peers.apps import model


class Served(MLModel):
    async def load(self):
        self.network = model.load()
        return True

    async def predict(self, payload):
        asked = payload.inputs[0]
        if model.workload() == "image":
            answers = model.classify(self.network, [model.decode(base64.b64decode(one)) for one in asked.data.root])
            outputs = {
                "class": numpy.array([[int(one["class"])] for one in answers]),
                "confidence": numpy.array([[one["confidence"]] for one in answers], dtype=numpy.float32),
            }
        else:
            batch = torch.from_numpy(NumpyCodec.decode_input(asked)).float()
            outputs = {"y": numpy.array(model.numbers(self.network, batch), dtype=numpy.float32)}
        encoded = [NumpyCodec.encode_output(name, value) for name, value in outputs.items()]
        return InferenceResponse(model_name=self.name, outputs=encoded)
