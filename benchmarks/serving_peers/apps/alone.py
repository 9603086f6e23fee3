"""torch alone, the bound: batches of as many as there are clients, ready as tensors, one after the other on all CPUs; no server.

`--parts` times the steps of one picture instead, each alone on one thread: decode, preprocess (stack, normalise), model.
Prints {"latencies_ms": ..., "seconds": ..., "batch": ...}: one latency for every sample of a batch.
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


def kept_samples() -> list[bytes]:
    kept = json.loads((Path(os.environ["SERVING_FOLDER"]) / "samples.json").read_text())
    return [bytes.fromhex(one["body"]) for one in kept]


def times(work: Callable[[], Any], seconds: float, clock: Callable[[], float] = time.perf_counter) -> list[float]:
    """Return the milliseconds of each call in so many seconds, after a tenth of them uncounted."""
    begin = time.perf_counter() + seconds / 10
    end, found = begin + seconds, []
    while (now := time.perf_counter()) < end:
        started = clock()
        work()
        if now >= begin:
            found.append((clock() - started) * 1000)
    return found


def cpu_milliseconds(work: Callable[[], Any], seconds: float) -> float:
    """Return the median CPU time of a call."""
    return statistics.median(times(work, seconds, time.process_time))


def bound(batch: int, seconds: float) -> dict[str, Any]:
    network, bodies = model.load(), kept_samples()
    if model.workload() == "image":
        made = model.normalise([model.decode(bodies[place % len(bodies)]) for place in range(batch)])
    else:
        made = torch.tensor([json.loads(bodies[place % len(bodies)]) for place in range(batch)])
    with torch.inference_mode():
        found = times(lambda: network(made), seconds)
    return {"latencies_ms": [one for one in found for _ in range(batch)], "seconds": sum(found) / 1000}


def parts(batch: int, seconds: float) -> dict[str, Any]:
    """Return the CPU milliseconds for one picture of each step."""
    network, bodies = model.load(), kept_samples()
    pictures = [model.decode(bodies[place % len(bodies)]) for place in range(batch)]
    made = model.normalise(pictures)
    with torch.inference_mode():
        steps = {
            "decode": cpu_milliseconds(lambda: [model.decode(one) for one in bodies], seconds) / len(bodies),
            "preprocess": cpu_milliseconds(lambda: model.normalise(pictures), seconds) / batch,
            "model": cpu_milliseconds(lambda: network(made), seconds) / batch,
        }
    return {name: round(value, 3) for name, value in steps.items()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--parts", action="store_true")
    told = parser.parse_args()
    json.dump((parts if told.parts else bound)(int(os.environ["SERVING_BATCH"]), told.seconds), sys.stdout)
