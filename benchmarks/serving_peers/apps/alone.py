"""torch alone, as a bound: ready batches with one sample per client, one after the other on all CPUs, without a server.

`--parts` times the steps of one picture instead, each alone on one thread: decode, preprocess (stack, normalise), model.
Prints {"latencies_ms": ..., "seconds": ...}: one latency for every sample of a batch.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.serving_peers.apps import model


def read_bodies() -> list[bytes]:
    samples = json.loads((Path(os.environ["SERVING_FOLDER"]) / "samples.json").read_text())
    return [bytes.fromhex(one["body"]) for one in samples]


def times(work: Callable[[], Any], seconds: float, clock: Callable[[], float] = time.perf_counter) -> list[float]:
    """Return the milliseconds of each call within `seconds`, after a tenth of that uncounted."""
    begin = time.perf_counter() + seconds / 10
    end, milliseconds = begin + seconds, []
    while (now := time.perf_counter()) < end:
        started = clock()
        work()
        if now >= begin:
            milliseconds.append((clock() - started) * 1000)
    return milliseconds


def cpu_milliseconds(work: Callable[[], Any], seconds: float) -> float:
    """Return the median CPU time of a call."""
    return statistics.median(times(work, seconds, time.process_time))


def bound(batch: int, seconds: float) -> dict[str, Any]:
    network, bodies = model.load(), read_bodies()
    if model.workload() == "image":
        inputs = model.normalise([model.decode(bodies[number % len(bodies)]) for number in range(batch)])
    else:
        inputs = torch.tensor([json.loads(bodies[number % len(bodies)]) for number in range(batch)])
    with torch.inference_mode():
        latencies = times(lambda: network(inputs), seconds)
    return {"latencies_ms": [one for one in latencies for _ in range(batch)], "seconds": sum(latencies) / 1000}


def parts(batch: int, seconds: float) -> dict[str, Any]:
    """Return the CPU milliseconds of each step for one picture."""
    network, bodies = model.load(), read_bodies()
    pictures = [model.decode(bodies[number % len(bodies)]) for number in range(batch)]
    inputs = model.normalise(pictures)
    with torch.inference_mode():
        steps = {
            "decode": cpu_milliseconds(lambda: [model.decode(one) for one in bodies], seconds) / len(bodies),
            "preprocess": cpu_milliseconds(lambda: model.normalise(pictures), seconds) / batch,
            "model": cpu_milliseconds(lambda: network(inputs), seconds) / batch,
        }
    return {name: round(value, 3) for name, value in steps.items()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--parts", action="store_true")
    options = parser.parse_args()
    json.dump((parts if options.parts else bound)(int(os.environ["SERVING_BATCH"]), options.seconds), sys.stdout)
