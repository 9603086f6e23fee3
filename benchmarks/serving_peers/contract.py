"""What defines a peer: its command, the form of its requests and of its answers."""

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
    """Where one server of one workload runs: `folder` holds weights and samples, `scratch` is its own folder, `cpus` a number."""

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
    """`argv` can write files into the place's scratch folder. `processes` have the network each; 0: one per CPU.

    `answer` takes a body and returns a value for `workloads.is_correct`: a list of numbers, or `{"class": ..., "confidence": ...}`.
    """

    name: str
    package: str
    argv: Callable[[Place], list[str]]
    request: Callable[[Workload, Sample], Request]
    answer: Callable[[Workload, bytes], Any]
    environment: Mapping[str, str] = field(default_factory=dict)
    processes: int = 0

    def count(self, cpus: int) -> int:
        """Return how many processes have the network."""
        return self.processes or cpus


def plain_request(path: str, field_name: str = "input_data") -> Callable[[Workload, Sample], Request]:
    """Return a function that makes requests: `{"input_data": [...]}`, or the bytes of a picture."""

    def make(workload: Workload, sample: Sample) -> Request:
        if workload.name == "image":
            return Request(path, sample.body, JPEG)
        return Request(path, b'{"%s": %s}' % (field_name.encode(), sample.body))

    return make


def plain_answer(workload: Workload, body: bytes) -> Any:  # noqa: ARG001 -- Peer.answer has this signature
    """Return a parsed JSON body."""
    return json.loads(body)
