"""Runs the peers and nginx as processes: starts each, waits until it answers correctly, and ends it with its children."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import requests

from benchmarks.serving_peers.contract import ROOT, Peer, Place
from benchmarks.serving_peers.workloads import Workload, is_correct, read_samples

START_S = 120.0
STOP_S = 15.0
PORTS = 6  # a server may have more listeners


@dataclass(frozen=True)
class Running:
    """A server that answers correctly: its address, and a function for the CPU seconds of each of its programs so far."""

    host: str
    port: int
    cpu_s: Callable[[], dict[str, float]]


def free_ports() -> int:
    """Return the first of several free ports in a row."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            first = int(probe.getsockname()[1])
        if first + PORTS < 65_000 and all(_is_free(first + more) for more in range(1, PORTS)):
            return first


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def environment_of(place: Place, processes: int) -> dict[str, str]:
    """Return this environment plus the apps' variables; each of the processes gets its share of the CPUs as threads."""
    threads = str(max(1, place.cpus // processes))
    return {
        **os.environ,
        "PATH": f"{place.python.parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "SERVING_FOLDER": str(place.folder),
        "SERVING_WORKLOAD": place.workload.name,
        "SERVING_PORT": str(place.port),
        "SERVING_THREADS": threads,
        "SERVING_PROCESSES": str(processes),
        "SERVING_BATCH": str(place.workload.clients),
        "LOG_LOCATION": str(place.scratch),
        "METRICS_LOCATION": str(place.scratch),
    }


def wrong_answer(peer: Peer, place: Place) -> str:
    """Send the first and the last sample; return "" when both answers are correct, otherwise what is wrong."""
    samples = read_samples(place.folder)
    for sample in (samples[0], samples[-1]):
        asked = peer.request(place.workload, sample)
        url = f"http://127.0.0.1:{place.port}{asked.path}"
        try:
            got = requests.post(url, asked.body, headers={"Content-Type": asked.content_type}, timeout=30)
        except requests.RequestException as error:
            return str(error)
        if got.status_code != 200:
            return f"{got.status_code} {got.text[:300]}"
        try:
            value = peer.answer(place.workload, got.content)
        except (ValueError, KeyError, IndexError, TypeError) as error:
            return f"{type(error).__name__}: {error}: {got.text[:300]}"
        if not is_correct(value, sample.answer, place.workload.tolerance):
            return f"expected {sample.answer}, got {value}"
    return ""


@contextmanager
def peer_server(peer: Peer, python: Path, folder: Path, scratch: Path, workload: Workload, cpus: int) -> Iterator[Running]:
    """Run one peer. Raises: SystemExit with the end of its log when it does not answer correctly in time."""
    place = Place(python, folder, scratch, workload, free_ports(), cpus)
    argv = peer.argv(place)
    with process(argv, environment_of(place, peer.count(cpus)) | dict(peer.environment), scratch) as running:
        wait_correct(peer.name, running, scratch, lambda: wrong_answer(peer, place))
        yield Running("127.0.0.1", place.port, lambda: cpu_seconds(running.pid))


@contextmanager
def process(argv: list[str], environment: Mapping[str, str], scratch: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program with its log in the scratch folder; end it with its children."""
    with (scratch / "log").open("wb") as log:
        running = subprocess.Popen(argv, env=dict(environment), cwd=scratch, stdout=log, stderr=log, start_new_session=True)
    family = [psutil.Process(running.pid)]
    try:
        yield running
    finally:
        family += psutil.Process(running.pid).children(recursive=True) if running.poll() is None else []
        signal_all(family[:1], signal.SIGTERM)
        _, alive = psutil.wait_procs(family, STOP_S)
        signal_all(alive, signal.SIGKILL)
        psutil.wait_procs(alive, STOP_S)
        running.wait(STOP_S)


def signal_all(processes: list[psutil.Process], number: int) -> None:
    """Send a signal to the processes that still exist."""
    for one in processes:
        try:
            one.send_signal(number)
        except psutil.NoSuchProcess:
            continue


def wait_correct(name: str, running: subprocess.Popen[bytes], scratch: Path, look: Callable[[], str]) -> None:
    """Wait until `look` returns "". Raises: SystemExit with its last result and the end of the log."""
    deadline, problem = time.monotonic() + START_S, ""
    while time.monotonic() < deadline and running.poll() is None:
        problem = look()
        if not problem:
            return
        time.sleep(0.2)
    log = (scratch / "log").read_text(errors="replace")[-3000:]
    raise SystemExit(f"{name} does not answer correctly: {problem}\n{log}")


def cpu_seconds(pid: int) -> dict[str, float]:
    """Return the CPU seconds that a process and its living descendants have taken, by the programs' names without versions."""
    total: dict[str, float] = {}
    for one in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
        try:
            name, used = one.name().rstrip("0123456789."), one.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total[name] = total.get(name, 0.0) + used.user + used.system
    return total
