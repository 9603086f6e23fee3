"""The registry: every server by the name that its rows carry."""

from dataclasses import dataclass
from typing import Any

from benchmarks.serving_peers import bentoml, fastapi, litserve, mlserver, torchserve
from benchmarks.serving_peers.contract import Peer, plain_answer, plain_request

PEERS: dict[str, Peer] = {one.PEER.name: one.PEER for one in (litserve, bentoml, mlserver, fastapi, torchserve)}
OURS = "torchrelay"
LATENCY, CHANNELS_LAST = "torchrelay, latency", "torchrelay, channels_last"
MODELS = {OURS: "serving-bench", LATENCY: "serving-bench-latency", CHANNELS_LAST: "serving-bench-channels-last"}
"""Our profiles by the names of their models: all run on one daemon."""
PROFILES = {
    "mlp": {OURS: "default"},
    "tiny": {OURS: "default", LATENCY: "latency"},
    "image": {OURS: "default", CHANNELS_LAST: "channels_last"},
}
"""Workload -> what runs of ours and the profile that its row names: the other one has a line more in model.yaml."""
ALONE = "torch alone"
FLOOR = "nginx, no model"


@dataclass(frozen=True)
class Called:
    """How a server is spoken to; the floor's answers hold nothing to be checked."""

    request: Any
    answer: Any
    checked: bool = True


CALLED: dict[str, Called] = {name: Called(one.request, one.answer) for name, one in PEERS.items()}
CALLED |= {name: Called(plain_request(f"/predictions/{model}"), plain_answer) for name, model in MODELS.items()}
CALLED |= {FLOOR: Called(plain_request("/"), plain_answer, checked=False)}
