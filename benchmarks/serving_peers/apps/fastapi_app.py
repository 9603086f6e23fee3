"""The FastAPI peer's applications."""

# mypy: ignore-errors
# Its package and types are installed only in the peers' environment.

import torch
from fastapi import Body, FastAPI
from fastapi.responses import ORJSONResponse
from pydantic import BaseModel

from benchmarks.serving_peers.apps import model

network = model.load()
numbers = FastAPI(default_response_class=ORJSONResponse)
pictures = FastAPI(default_response_class=ORJSONResponse)


class Numbers(BaseModel):
    input_data: list[float]


@numbers.post("/predict")
def predict(body: Numbers):
    return ORJSONResponse(model.numbers(network, torch.tensor([body.input_data]))[0])


@pictures.post("/predict")
def classify(body: bytes = Body(media_type="image/jpeg")):
    return ORJSONResponse(model.classify(network, [model.decode(body)])[0])
