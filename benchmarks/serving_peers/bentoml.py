"""BentoML: adaptive batching with `batchable=True`, one worker per CPU.

Documented at docs.bentoml.com: get-started/adaptive-batching, build-with-bentoml/parallelize-requests ("workers"). Access log and
metrics are off.
"""

import json
from typing import Any

from benchmarks.serving_peers.contract import APPS, Peer, Place, Request
from benchmarks.serving_peers.litserve import BOUNDARY
from benchmarks.serving_peers.workloads import Sample, Workload


def argv(place: Place) -> list[str]:
    name = "Pictures" if place.workload.name == "image" else "Numbers"
    return [place.program("bentoml"), "serve", f"{APPS}.bentoml_app:{name}", "--host", "127.0.0.1", "--port", str(place.port)]


def request(workload: Workload, sample: Sample) -> Request:
    """Return a request with a batch of one, because a batchable API takes a batch."""
    if workload.name != "image":
        return Request("/predict", b'{"batch": [%s]}' % sample.body)
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="batch"; filename="p.jpg"\r\nContent-Type: image/jpeg\r\n\r\n'
    body = head.encode() + sample.body + f"\r\n--{BOUNDARY}--\r\n".encode()
    return Request("/predict", body, f"multipart/form-data; boundary={BOUNDARY}")


def answer(workload: Workload, body: bytes) -> Any:  # noqa: ARG001 -- Peer.answer has this signature
    return json.loads(body)[0]


PEER = Peer("bentoml", "bentoml", argv, request, answer, {"BENTOML_DO_NOT_TRACK": "True"})
