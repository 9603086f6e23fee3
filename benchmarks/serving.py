"""Compares torchrelay with LitServe, BentoML, MLServer, FastAPI and stock TorchServe with a plain handler, in one run.

Workloads: mlp (5 M parameters, JSON of 512 floats, 32 clients), tiny (Linear(10, 2), one client) and image (224x224 JPEGs, a
ResNet-18 of half its width, 8 clients). Torchrelay runs as its deployed container: with its front, non-root, a read-only root. Each
peer is a process with the settings that its documentation recommends for throughput (benchmarks/serving_peers). The servers and the
client share the same two CPUs. Rounds are interleaved: each server is started, answers samples correctly, is warmed up, measured
and stopped, then the next one follows; the figures are medians of the rounds. Bounds: torch alone with ready batches, and nginx
answering by itself, which shows the client's own limit.

`python -m benchmarks.serving [--quick] [--only SERVER,...] [--workload NAME,...] [--json FILE]` from the top of the repository.
"""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.console import Console

from benchmarks.serving_peers import bounds, relayed
from benchmarks.serving_peers.contract import ROOT
from benchmarks.serving_peers.environment import ensure_environment, versions
from benchmarks.serving_peers.peers import ALONE, FLOOR, PEERS, PROFILES, TORCHRELAY
from benchmarks.serving_peers.servers import Running, peer_server
from benchmarks.serving_peers.workloads import WORKLOADS, Workload, make_folder
from benchmarks.serving_quiet import QUIET, wait_quiet, watched
from benchmarks.serving_rows import Round, Row, report, row, table
from torchrelay import __version__
from torchrelay.core.log import configure_logging
from torchrelay.core.progress import progress
from torchrelay.image.runtime import RuntimeSettings, ensure_runtime

WARM_S = 8.0  # a JVM compiles its code during the first seconds


@dataclass(frozen=True)
class Options:
    """`warm_s` and `seconds` of each round."""

    python: Path
    cpus: list[int]
    warm_s: float
    seconds: float
    rounds: int
    only: frozenset[str]
    patience_s: float


@dataclass(frozen=True)
class Entry:
    """One server in one workload; `measure` runs one round."""

    server: str
    version: str
    measure: Callable[[], Round]
    profile: str = ""


class Wrong(Exception):
    """A server gave a wrong answer, or none."""


def loaded(called: str, workload: Workload, folder: Path, options: Options, running: Running) -> Round:
    """Measure a running server with a client process. Raises: Wrong with the first failures."""
    load = {"server": called, "workload": workload.name, "folder": str(folder), "host": running.host, "port": running.port}
    load |= {"clients": workload.clients, "warm_s": options.warm_s, "seconds": options.seconds}
    spec = folder / "load.json"
    spec.write_text(json.dumps(load))
    client = [sys.executable, "-m", "benchmarks.serving_load", str(spec)]
    with watched(options.cpus) as share:
        before = running.cpu_s()
        done = subprocess.run(client, cwd=ROOT, capture_output=True, text=True, check=False)
        used = {name: seconds - before.get(name, 0.0) for name, seconds in running.cpu_s().items()}
        share.measured_s = sum(used.values())
    if done.returncode != 0:
        raise Wrong(f"{called}: the client failed: {done.stderr[-1500:]}")
    result = json.loads(done.stdout)
    if result["failures"] or not result["latencies_ms"]:
        raise Wrong(f"{called}: {len(result['failures'])} wrong answers, for example: {result['failures'][:3]}")
    return Round(
        result["latencies_ms"],
        result["seconds"],
        {name: one / result["answered"] * 1000 for name, one in used.items()},
        share.others,
    )


@contextmanager
def entries(workload: Workload, folder: Path, options: Options) -> Iterator[list[Entry]]:
    """Prepare everything that a workload's rounds need; torchrelay's image is built and verified once per profile."""
    installed = versions(options.python)
    count = len(options.cpus)

    def serve(called: str, start: Callable[[Path], AbstractContextManager[Running]]) -> Round:
        with tempfile.TemporaryDirectory(dir=folder) as scratch, start(Path(scratch)) as running:
            return loaded(called, workload, folder, options, running)

    def alone() -> Round:
        with watched(options.cpus) as share:
            result = bounds.alone(options.python, folder, workload, count, options.seconds)
        return Round(result["latencies_ms"], result["seconds"], others=share.others)

    listed: list[Entry] = []
    with ExitStack() as stack:
        for called, profile in PROFILES[workload.name].items():
            if TORCHRELAY not in options.only:
                continue
            directory = relayed.make_directory(folder / called.replace(", ", "-"), folder, workload, called, count)
            container = stack.enter_context(relayed.deployed(directory, called, options.cpus))
            listed.append(
                Entry(
                    TORCHRELAY,
                    __version__,
                    partial(serve, called, partial(relayed.started, container, called, folder, workload)),
                    profile,
                )
            )
        for name, peer in PEERS.items():
            begin = partial(peer_server, peer, options.python, folder, workload=workload, cpus=count)
            listed.append(Entry(name, installed[peer.package], partial(serve, name, begin)))
        listed.append(Entry(ALONE, installed["torch"], alone))
        listed.append(Entry(FLOOR, nginx_version(), partial(serve, FLOOR, lambda scratch: bounds.floor(scratch, count))))
        yield [one for one in listed if one.server in options.only]


def nginx_version() -> str:
    """Return nginx's version."""
    output = subprocess.run([bounds.nginx_program(), "-v"], capture_output=True, text=True, check=False).stderr
    return output.rpartition("/")[2].strip()


def in_words(one: Round) -> str:
    """Return a round in a few words."""
    return f"{len(one.latencies_ms) / one.seconds:.0f} rps, others {one.others:.0%}"


def measured(workload: Workload, folder: Path, options: Options, console: Console) -> tuple[list[Row], list[str]]:
    """Run all rounds of a workload; return its rows and the failures."""
    wrong: list[str] = []
    with entries(workload, folder, options) as listed:
        rounds: list[list[Round]] = [[] for _ in listed]
        for number in range(options.rounds):
            for entry, taken in zip(listed, rounds, strict=True):
                wait_quiet(options.cpus, options.patience_s)
                try:
                    taken.append(entry.measure())
                    console.log(
                        f"{workload.name}, round {number + 1} of {options.rounds}: {entry.server} {entry.profile}",
                        in_words(taken[-1]),
                    )
                except (Wrong, SystemExit) as error:
                    wrong.append(f"{workload.name}: {error}")
                    console.log(wrong[-1], markup=False)
    complete = [(entry, taken) for entry, taken in zip(listed, rounds, strict=True) if taken]
    return [row(one.server, one.version, workload.name, workload.clients, taken, one.profile) for one, taken in complete], wrong


def where_the_time_goes(rows: list[Row], workload: Workload, folder: Path, options: Options, console: Console) -> dict[str, float]:
    """Split torchrelay's CPU milliseconds per picture: the model's steps, each alone on one thread, then the rest."""
    steps: dict[str, float] = bounds.alone(options.python, folder, workload, 1, options.seconds, parts=True)
    for mine in [one for one in rows if one["server"] == TORCHRELAY and one["profile"] == PROFILES[workload.name][TORCHRELAY]]:
        used = mine["cpu_ms_by_program"]
        steps["worker's own (handlers, protocol)"] = round(used.get("python", 0.0) - sum(steps.values()), 3)
        steps |= {"TorchServe's frontend (java)": used.get("java", 0.0), "front (nginx)": used.get("nginx", 0.0)}
    console.print(
        f"{workload.name}, CPU milliseconds per picture: " + ", ".join(f"{name} {value:.2f}" for name, value in steps.items())
    )
    return steps


def names(text: str, known: list[str], option: str) -> list[str]:
    """Read a list of names. Raises: SystemExit with an unknown name."""
    listed = [name.strip() for name in re.split(r",(?! )", text) if name.strip()]
    for name in listed:
        if name not in known:
            raise SystemExit(f"{option}: unknown name {name!r}; known: {'; '.join(known)}")
    return listed


def parsed() -> argparse.Namespace:
    servers = [TORCHRELAY, *PEERS, ALONE, FLOOR]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one short round of each, to test the benchmark itself")
    parser.add_argument("--only", default=",".join(servers), help="only these servers, of: " + "; ".join(servers))
    parser.add_argument("--workload", default=",".join(WORKLOADS), help="only these workloads, of: " + "; ".join(WORKLOADS))
    parser.add_argument("--seconds", type=float, default=8.0, help="seconds counted in each round, after 8 of warm-up (default 8)")
    parser.add_argument("--rounds", type=int, default=3, help="number of rounds (default 3)")
    parser.add_argument("--cpus", type=int, default=2, help="number of CPUs shared by servers and client (default 2)")
    parser.add_argument("--patience", type=float, default=60.0, help="seconds to wait for a quiet machine before each round")
    parser.add_argument("--json", type=Path, help="write the rows here")
    arguments = parser.parse_args()
    arguments.only = names(arguments.only, servers, "--only")
    arguments.workload = names(arguments.workload, list(WORKLOADS), "--workload")
    return arguments


def main() -> int:
    """Print the table; return 1 when a server gave wrong answers."""
    arguments, console = parsed(), Console(width=132)
    configure_logging(verbose=False)
    cpus = sorted(os.sched_getaffinity(0))[: arguments.cpus]
    python = ensure_environment(progress())
    if TORCHRELAY in arguments.only:
        ensure_runtime(RuntimeSettings.from_environment("cpu"), progress())
    os.sched_setaffinity(0, cpus)  # for all processes started from here; containers get theirs separately
    warm_s, seconds, rounds = (1.0, 1.5, 1) if arguments.quick else (WARM_S, arguments.seconds, arguments.rounds)
    options = Options(python, cpus, warm_s, seconds, rounds, frozenset(arguments.only), arguments.patience)
    rows: list[Row] = []
    wrong: list[str] = []
    parts: dict[str, float] = {}
    with tempfile.TemporaryDirectory(dir=os.environ.get("TORCHRELAY_BENCH_DIR")) as scratch:
        for name in arguments.workload:
            folder = make_folder(Path(scratch) / name, name)
            measured_rows, failed = measured(WORKLOADS[name], folder, options, console)
            rows, wrong = rows + measured_rows, wrong + failed
            if name == "image":
                parts = where_the_time_goes(measured_rows, WORKLOADS[name], folder, options, console)
    about = {"cpus": len(cpus), "seconds": seconds, "python": platform.python_version()}
    console.print(table(rows, f"{len(cpus)} CPUs for server and client, {rounds} rounds of {seconds:g} s, medians"))
    if any(one["others"] > QUIET for one in rows):
        console.print("the machine was busy: rows with a large share in the column others have figures that are too low")
    if arguments.json:
        arguments.json.write_text(json.dumps(report(rows, image_ms=parts, **about), indent=2) + "\n")
    for one in wrong:
        console.print(f"wrong: {one}", markup=False)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
