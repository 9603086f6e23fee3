"""What a peer is: how it is started, what its requests look like and where its answers are."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.serving_peers.workloads import Sample, Workload

ROOT = Path(__file__).resolve().parents[2]
APPS = "benchmarks.serving_peers.apps"
JSON = "application/json"
JPEG = "image/jpeg"


@dataclass(frozen=True)
class Place:
    """Where one server of one workload runs: `folder` holds weights and samples, `scratch` is its own, `cpus` a number."""

    python: Path
    folder: Path
    scratch: Path
    workload: Workload
    port: int
    cpus: int

    def program(self, name: str) -> str:
        """Return the path of one of the environment's programs."""
        return str(self.python.with_name(name))


@dataclass(frozen=True)
class Request:
    """One POST."""

    path: str
    body: bytes
    content_type: str = JSON


@dataclass(frozen=True)
class Peer:
    """`argv` may write files into the place's scratch folder. `processes` hold the network each; 0: as many as CPUs.

    `answer` takes a body and returns what `workloads.right` compares: a list of numbers, or `{"class": ..., "confidence": ...}`.
    """

    name: str
    package: str
    argv: Callable[[Place], list[str]]
    request: Callable[[Workload, Sample], Request]
    answer: Callable[[Workload, bytes], Any]
    environment: Mapping[str, str] = field(default_factory=dict)
    processes: int = 0

    def count(self, cpus: int) -> int:
        """Return how many processes hold the network."""
        return self.processes or cpus


def plain_request(path: str, field_name: str = "input_data") -> Callable[[Workload, Sample], Request]:
    """Return what makes `{"input_data": [...]}`, and of a picture its own bytes."""

    def make(workload: Workload, sample: Sample) -> Request:
        if workload.name == "image":
            return Request(path, sample.body, JPEG)
        return Request(path, b'{"%s": %s}' % (field_name.encode(), sample.body))

    return make


def plain_answer(workload: Workload, body: bytes) -> Any:  # noqa: ARG001 -- the signature of Peer.answer
    """Return a JSON body as it is."""
    return json.loads(body)
