"""Torchrelay: a complete relay of a generated model directory, and the container that the docker target starts.

Requests go to the container's own address, so the image is measured: nginx as its front, TorchServe behind it, the handlers;
non-root, a read-only root, no capabilities. `resources.cpu` is the same as every server's.
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import docker
import requests
from docker.models.containers import Container

from benchmarks.push_path import cli, free_port
from benchmarks.serving_peers.peers import CALLED, CHANNELS_LAST, LATENCY, MODELS
from benchmarks.serving_peers.servers import START_S, Running, cpu_seconds
from benchmarks.serving_peers.workloads import Workload, is_correct, read_samples
from benchmarks.serving_quiet import same_priority

PORT = 8080


def describe(workload: Workload, called: str, cpus: int, port: int) -> dict[str, Any]:
    """Return model.yaml of a workload: one worker per CPU; `called` names the profile."""
    described: dict[str, Any] = {
        "name": MODELS[called],
        "version": "1.0",
        "weights": "model.pt",
        "model_file": "model.py",
        "init_args": {"workload": workload.name},
        "resources": {"cpu": cpus, "memory": "3Gi"},
        "targets": {"docker": {"port": port}},
    }
    if workload.clients > 1:
        described |= {"workers": cpus, "batch": {"size": workload.batch(cpus)}}
    elif called == LATENCY:
        described |= {"batch": {"size": 1}}
    if workload.name == "image":
        names = [str(number) for number in range(10)]
        arguments: dict[str, Any] = {"size": 224, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "classes": names}
        if called == CHANNELS_LAST:
            arguments["channels_last"] = True
        return described | {"handler": "image-classifier", "handler_args": arguments}
    shape = {"shape": [512 if workload.name == "mlp" else 10]}
    return described | {"handler": "tensor", "handler_args": shape}


def make_directory(target: Path, folder: Path, workload: Workload, called: str, cpus: int) -> Path:
    """Write the model directory of a workload."""
    (target / "samples").mkdir(parents=True)
    (target / "model.pt").write_bytes((folder / "model.pt").read_bytes())
    (target / "model.py").write_bytes((Path(__file__).parent / "apps" / "network.py").read_bytes())
    (target / "model.yaml").write_text(json.dumps(describe(workload, called, cpus, free_port())))
    samples = read_samples(folder)
    for number, sample in enumerate(samples[:2]):
        if workload.name == "image":
            (target / "samples" / f"{number}.jpg").write_bytes(sample.body)
            asked: dict[str, Any] = {"body_file": f"{number}.jpg", "content_type": "image/jpeg"}
        else:
            asked = {"json": {"input_data": sample.numbers}}
        expect = {"json": sample.answer, "compare": "numeric", "atol": workload.tolerance, "rtol": workload.tolerance}
        (target / "samples" / f"{number}.json").write_text(json.dumps({"request": asked, "expect": expect}))
    return target


@contextmanager
def deployed(directory: Path, called: str, cpus: list[int]) -> Iterator[Container]:
    """Relay a directory to the docker target; yield its stopped container, limited to these CPUs; delete everything afterwards."""
    try:
        cli("relay", str(directory), "--target", "docker")
        name = rf"^/torchrelay-{MODELS[called]}-[0-9a-f]{{12}}-"
        [container] = docker.from_env().containers.list(filters={"name": name})
        container.update(cpuset_cpus=",".join(map(str, cpus)))
        container.stop(timeout=5)
        yield container
    finally:
        subprocess.run(
            [sys.executable, "-m", "torchrelay", "delete", str(directory), "--target", "docker"], check=True, capture_output=True
        )


@contextmanager
def started(container: Container, called: str, folder: Path, workload: Workload, _scratch: Path) -> Iterator[Running]:
    """Start the container, as every server in every round, and stop it afterwards."""
    container.start()
    container.reload()
    host = str(next(iter(container.attrs["NetworkSettings"]["Networks"].values()))["IPAddress"])
    try:
        wait_correct(container, host, called, folder, workload)
        same_priority(int(container.attrs["State"]["Pid"]))
        yield Running(host, PORT, lambda: cpu_seconds(int(container.attrs["State"]["Pid"])))
    finally:
        container.stop(timeout=5)


def wait_correct(container: Container, host: str, called: str, folder: Path, workload: Workload) -> None:
    """Wait until both samples are answered correctly. Raises: SystemExit with the last answer and the log."""
    deadline, problem, samples = time.monotonic() + START_S, "", read_samples(folder)
    while time.monotonic() < deadline:
        try:
            if requests.get(f"http://{host}:{PORT}/ping", timeout=5).status_code == 200:
                wrong = [text for sample in (samples[0], samples[-1]) if (text := _wrong(host, called, workload, sample))]
                if not wrong:
                    return
                problem = wrong[0]
        except requests.RequestException as error:
            problem = str(error)
        time.sleep(0.2)
    raise SystemExit(f"{called} does not answer correctly: {problem}\n{container.logs(tail=40).decode(errors='replace')}")


def _wrong(host: str, called: str, workload: Workload, sample: Any) -> str:
    asked = CALLED[called].request(workload, sample)
    got = requests.post(f"http://{host}:{PORT}{asked.path}", asked.body, headers={"Content-Type": asked.content_type}, timeout=30)
    if got.status_code == 200 and is_correct(got.json(), sample.answer, workload.tolerance):
        return ""
    return f"expected {sample.answer}, got {got.status_code} {got.text[:300]}"
