"""SageMaker's four functions, as its PyTorch toolkit documents them."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn


def model_fn(model_dir):
    network = nn.Linear(3, 2)
    network.load_state_dict(load_file(Path(model_dir) / "model.safetensors"))
    return network.eval()


def input_fn(body, content_type):
    if content_type != "application/json":
        raise ValueError(f"content type {content_type}")
    return torch.tensor(json.loads(body)["inputs"], dtype=torch.float32)


def predict_fn(data, model):
    with torch.inference_mode():
        return model(data)


def output_fn(prediction, accept):
    return json.dumps({"outputs": prediction.tolist()}), accept
