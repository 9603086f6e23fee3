"""MLServer: adaptive batching with max_batch_size and max_batch_time, the V2 protocol in JSON.

Documented at docs.seldon.ai/mlserver/user-guide: adaptive-batching, and parallel-inference, where 0 workers mean the server's own
process. Debug logs and gzip are off.
"""

import base64
import json
from typing import Any

from benchmarks.serving_peers.contract import APPS, Peer, Place, Request
from benchmarks.serving_peers.workloads import Sample, Workload

WORKERS = 0


def argv(place: Place) -> list[str]:
    settings = {
        "host": "127.0.0.1",
        "http_port": place.port,
        "grpc_port": place.port + 1,
        "metrics_port": place.port + 2,
        "metrics_dir": str(place.scratch),
        "environments_dir": str(place.scratch),
        "parallel_workers": WORKERS,
        "debug": False,
        "gzip_enabled": False,
    }
    batching = {"max_batch_size": place.workload.clients, "max_batch_time": 0.005} if place.workload.clients > 1 else {}
    described = {"name": "bench", "implementation": f"{APPS}.mlserver_app.Served", **batching}
    (place.scratch / "settings.json").write_text(json.dumps(settings))
    (place.scratch / "model-settings.json").write_text(json.dumps(described))
    return [place.program("mlserver"), "start", str(place.scratch)]


def request(workload: Workload, sample: Sample) -> Request:
    if workload.name == "image":
        encoded = base64.b64encode(sample.body).decode()
        tensor = {"name": "x", "shape": [1, 1], "datatype": "BYTES", "parameters": {"content_type": "base64"}, "data": [encoded]}
    else:
        tensor = {"name": "x", "shape": [1, len(sample.numbers)], "datatype": "FP32", "data": sample.numbers}
    return Request("/v2/models/bench/infer", json.dumps({"inputs": [tensor]}).encode())


def answer(workload: Workload, body: bytes) -> Any:
    outputs = {one["name"]: one["data"] for one in json.loads(body)["outputs"]}
    if workload.name == "image":
        return {"class": str(outputs["class"][0]), "confidence": outputs["confidence"][0]}
    return outputs["y"]


PEER = Peer("mlserver", "mlserver", argv, request, answer, processes=1)
