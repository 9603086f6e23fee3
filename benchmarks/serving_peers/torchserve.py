"""Stock TorchServe with a plain handler: TorchScript, only the first request of a batch, so no batching.

Started as its README says (`torchserve --start --models`, in the foreground here) with token checks off; the default number of
workers, one per CPU. Access and metrics logs are written, as by default. A picture is decoded in the handler.
"""

import json
import subprocess
import sys
from typing import Any

from benchmarks.serving_peers.contract import Peer, Place, plain_request
from benchmarks.serving_peers.servers import environment_of
from benchmarks.serving_peers.workloads import Workload

HANDLER = """
import os
import torch
{imports}
from ts.torch_handler.base_handler import BaseHandler

class ModelHandler(BaseHandler):
    def initialize(self, context):
        folder = context.system_properties.get("model_dir")
        self.model = torch.jit.load(os.path.join(folder, context.manifest["model"]["serializedFile"]))
        self.initialized = True

    def preprocess(self, data):
        body = data[0].get("body")
        return {preprocessed}

    def inference(self, model_input):
        return self.model.forward(model_input)

    def postprocess(self, inference_output):
        return {answers}

    def handle(self, data, context):
        return self.postprocess(self.inference(self.preprocess(data)))
"""
PARTS = {
    "image": {
        "imports": "from benchmarks.serving_peers.apps import model",
        "preprocessed": "model.normalise([model.decode(bytes(body))])",
        "answers": "model.conclude(inference_output)",
    }
}
NUMBERS = {"imports": "", "preprocessed": 'torch.tensor([body.get("input_data")])', "answers": "inference_output.tolist()"}
TRACE = """
import os, sys, torch
from benchmarks.serving_peers.apps import model
shape = {"mlp": [1, 512], "tiny": [1, 10], "image": [1, 3, 224, 224]}[model.workload()]
torch.jit.trace(model.load(), torch.rand(shape)).save(sys.argv[1])
"""


def argv(place: Place) -> list[str]:
    handler, traced = place.scratch / "model_handler.py", place.scratch / "model.pt"
    handler.write_text(HANDLER.format(**PARTS.get(place.workload.name, NUMBERS)))
    environment = environment_of(place, PEER.count(place.cpus))
    subprocess.run([str(place.python), "-W", "ignore", "-c", TRACE, str(traced)], check=True, env=environment)
    packed = ["-m", "model_archiver.model_packaging", "--model-name", "bench", "--version", "1.0", "--serialized-file", str(traced)]
    where = ["--handler", str(handler), "--export-path", str(place.scratch)]
    subprocess.run([sys.executable, *packed, *where], check=True, capture_output=True)
    ports = {"inference": place.port, "management": place.port + 1, "metrics": place.port + 2}
    lines = [f"{name}_address=http://127.0.0.1:{port}" for name, port in ports.items()]
    lines += ["disable_token_authorization=true", f"grpc_inference_port={place.port + 3}", f"grpc_management_port={place.port + 4}"]
    (place.scratch / "config.properties").write_text("\n".join(lines) + "\n")
    serve = [place.program("torchserve"), "--start", "--foreground", "--ncs", "--model-store", str(place.scratch)]
    return [*serve, "--models", "bench=bench.mar", "--ts-config", str(place.scratch / "config.properties")]


def answer(workload: Workload, body: bytes) -> Any:
    """Return the answer; for a batch of one, TorchServe may return a list with one row."""
    value = json.loads(body)
    return value if workload.name == "image" or not isinstance(value[0], list) else value[0]


PEER = Peer("torchserve, plain handler", "torchserve", argv, plain_request("/predictions/bench"), answer)
