"""The FastAPI peer's applications."""

# mypy: ignore-errors
# Its package is installed in the peers' environment alone, and so are its types.

import torch
from fastapi import Body, FastAPI
from fastapi.responses import ORJSONResponse
from pydantic import BaseModel

from benchmarks.serving_peers.apps import model

network = model.load()
numbers = FastAPI(default_response_class=ORJSONResponse)
pictures = FastAPI(default_response_class=ORJSONResponse)


class Asked(BaseModel):
    input_data: list[float]


@numbers.post("/predict")
def predict(asked: Asked):
    return ORJSONResponse(model.numbers(network, torch.tensor([asked.input_data]))[0])


@pictures.post("/predict")
def classify(body: bytes = Body(media_type="image/jpeg")):
    return ORJSONResponse(model.classify(network, [model.decode(body)])[0])
