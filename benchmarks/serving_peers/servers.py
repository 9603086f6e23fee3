"""Servers as processes: the peers and nginx. Each is started, waited for until it answers rightly, and ended with its children."""

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
from benchmarks.serving_peers.workloads import Workload, read_samples, right

START_S = 120.0
STOP_S = 15.0
PORTS = 6  # a server may have more listeners beside its own


@dataclass(frozen=True)
class Running:
    """A server that answers rightly: where, and the CPU seconds that each of its programs has taken so far."""

    host: str
    port: int
    cpu_s: Callable[[], dict[str, float]]


def free_ports() -> int:
    """Return the first of some ports in a row that nobody listens on."""
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
    """Return what the apps read, beside this environment; each of so many processes has its share of the CPUs as threads."""
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


def right_answer(peer: Peer, place: Place) -> str:
    """Send the first and the last sample; "" when both answers are right, else what is wrong."""
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
            found = peer.answer(place.workload, got.content)
        except (ValueError, KeyError, IndexError, TypeError) as error:
            return f"{type(error).__name__}: {error}: {got.text[:300]}"
        if not right(found, sample.answer, place.workload.tolerance):
            return f"expected {sample.answer}, got {found}"
    return ""


@contextmanager
def peer_server(peer: Peer, python: Path, folder: Path, scratch: Path, workload: Workload, cpus: int) -> Iterator[Running]:
    """Run one peer. Raises: SystemExit with the end of its log when it does not answer rightly in time."""
    place = Place(python, folder, scratch, workload, free_ports(), cpus)
    argv = peer.argv(place)
    with process(argv, environment_of(place, peer.count(cpus)) | dict(peer.environment), scratch) as running:
        wait_right(peer.name, running, scratch, lambda: right_answer(peer, place))
        yield Running("127.0.0.1", place.port, lambda: cpu_seconds(running.pid))


@contextmanager
def process(argv: list[str], environment: Mapping[str, str], scratch: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program with its log in the scratch folder; end it and all that it started."""
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
    """Send a signal to those that are still there."""
    for one in processes:
        try:
            one.send_signal(number)
        except psutil.NoSuchProcess:
            continue


def wait_right(name: str, running: subprocess.Popen[bytes], scratch: Path, look: Callable[[], str]) -> None:
    """Wait until `look` finds nothing wrong. Raises: SystemExit with what it said last and the end of the log."""
    deadline, said = time.monotonic() + START_S, ""
    while time.monotonic() < deadline and running.poll() is None:
        said = look()
        if not said:
            return
        time.sleep(0.2)
    log = (scratch / "log").read_text(errors="replace")[-3000:]
    raise SystemExit(f"{name} does not answer as it should: {said}\n{log}")


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
