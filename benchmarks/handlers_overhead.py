"""Measures the handler library's cost per sample, without a server: `Handler.answer` without parsing and the network.

    python benchmarks/handlers_overhead.py [--seconds 1] [--json FILE]

For each batch size, in microseconds per sample: `total` (bytes in, bytes out), `parse` (the JSON parser and the conversion
of its lists to an array), `torch` (stacking, the network, splitting), `encode` (the answer as JSON); `overhead` is the rest.
Each figure is the lower quartile of many rounds, because the machine may be busy with other work.
"""

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import orjson
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1] / "handlers"))

from torchrelay_handlers import Handler, Request, handler_factory, shipped

FEATURES = (10, 512)
BATCHES = (1, 4, 32)


def microseconds(work: Callable[[], object], seconds: float) -> float:
    """Return the time of one call in microseconds: the lower quartile of rounds of about a millisecond each."""
    work()
    start = time.perf_counter()
    work()
    calls = max(1, int(0.001 / max(1e-7, time.perf_counter() - start)))
    rounds: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        for _ in range(calls):
            work()
        rounds.append((time.perf_counter() - start) / calls * 1e6)
    return statistics.quantiles(rounds, n=4)[0]


def handlers(features: int) -> dict[str, Handler]:
    """Return the shipped tensor handler, and one with an author's functions that do nothing."""

    def network() -> nn.Module:
        torch.manual_seed(1)
        return nn.Linear(features, 2)

    return {
        "tensor": shipped.make("tensor", network, {"shape": [features]}).load(None),
        "own": handler_factory(network, preprocess_function=lambda sample: sample, postprocess_function=lambda output: output).load(
            None
        ),
    }


def measure(features: int, batch: int, name: str, handler: Handler, seconds: float) -> dict[str, object]:
    """Return one row. The parts are timed with the same calls that the library makes to other libraries."""
    body = orjson.dumps([round(0.001 * index, 3) for index in range(features)])
    requests = [Request(body, "application/json") for _ in range(batch)]
    network = nn.Linear(features, 2).eval().requires_grad_(False)
    samples = [torch.ones(features) for _ in range(batch)]
    row = [0.25, 0.75]

    def parse() -> object:
        return torch.from_numpy(np.asarray(orjson.loads(body)).astype(np.float32))

    def compute() -> object:
        with torch.inference_mode():
            return network(torch.stack(samples)).unbind(0)

    total = microseconds(lambda: handler.answer(requests), seconds) / batch
    parts = {
        "parse": microseconds(parse, seconds),
        "torch": microseconds(compute, seconds) / batch,
        "encode": microseconds(lambda: orjson.dumps(row), seconds),
    }
    overhead = total - sum(parts.values())
    return {"handler": name, "features": features, "batch": batch, "total_us": total, **{f"{k}_us": v for k, v in parts.items()},
            "overhead_us": overhead}  # fmt: skip


def main() -> None:
    """Print the table; with --json also write it to a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1.0, help="seconds for each figure (default 1)")
    parser.add_argument("--json", type=Path, help="file for the rows")
    options = parser.parse_args()

    loaded = {features: handlers(features) for features in FEATURES}
    torch.set_num_threads(1)  # loading allows a worker all CPUs, and other work on the machine would then disturb the figures
    rows = [
        measure(features, batch, name, handler, options.seconds)
        for features, named in loaded.items()
        for name, handler in named.items()
        for batch in BATCHES
    ]
    columns = ("handler", "features", "batch", "total_us", "parse_us", "torch_us", "encode_us", "overhead_us")
    print("  ".join(f"{column:>11}" for column in columns))
    for row in rows:
        print("  ".join(f"{row[c]:11.1f}" if isinstance(row[c], float) else f"{row[c]!s:>11}" for c in columns))
    if options.json:
        machine = {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "machine": platform.processor() or platform.machine(),
        }
        options.json.write_text(
            json.dumps({"seconds": options.seconds, **machine, "rows": rows}, indent=2) + "\n", encoding="utf-8"
        )


if __name__ == "__main__":
    main()
