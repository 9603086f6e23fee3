"""The registry: every server by its name in the table."""

from dataclasses import dataclass
from typing import Any

from benchmarks.serving_peers import bentoml, fastapi, litserve, mlserver, torchserve
from benchmarks.serving_peers.contract import Peer, plain_answer, plain_request

PEERS: dict[str, Peer] = {one.PEER.name: one.PEER for one in (litserve, bentoml, mlserver, fastapi, torchserve)}
TORCHRELAY = "torchrelay"
LATENCY, CHANNELS_LAST = "torchrelay, latency", "torchrelay, channels_last"
MODELS = {TORCHRELAY: "serving-bench", LATENCY: "serving-bench-latency", CHANNELS_LAST: "serving-bench-channels-last"}
"""Profile -> name of its model; the names differ because all run on one daemon."""
PROFILES = {
    "mlp": {TORCHRELAY: "default"},
    "tiny": {TORCHRELAY: "default", LATENCY: "latency"},
    "image": {TORCHRELAY: "default", CHANNELS_LAST: "channels_last"},
}
"""Workload -> torchrelay's profiles by the names above; all but the default have one more line in model.yaml."""
ALONE = "torch alone"
FLOOR = "nginx, no model"


@dataclass(frozen=True)
class Called:
    """How to make a server's requests and read its answers; the answers of nginx alone are not checked."""

    request: Any
    answer: Any
    checked: bool = True


CALLED: dict[str, Called] = {name: Called(one.request, one.answer) for name, one in PEERS.items()}
CALLED |= {name: Called(plain_request(f"/predictions/{model}"), plain_answer) for name, model in MODELS.items()}
CALLED |= {FLOOR: Called(plain_request("/"), plain_answer, checked=False)}
