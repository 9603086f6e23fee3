"""TorchServe's configuration, environment and command: pure functions of the settings."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from torchrelay_runtime.limits import MIB, Limits
from torchrelay_runtime.nginx import buffered_bytes
from torchrelay_runtime.settings import Settings, SettingsError
from torchrelay_runtime.state import CANCELLED

INFERENCE = "127.0.0.1:8085"
FIXED_PORTS = {"management": 8081, "metrics": 8082, "grpc_inference": 7070, "grpc_management": 7071, "workers": 9000}
# More than a batch in flight and a few waiting only adds latency (docs/torchserve.md, T8); the queue never gets shorter than this.
LEAST_QUEUE = 16
LARGEST_RESPONSE = 64 * MIB
SERVICE = "torchrelay_service.py"  # the handler in every archive that Torchrelay makes
LARGEST_BUDGET = 256 * MIB
FRONT_MEMORY = 64 * MIB  # nginx itself, and the small bodies that it keeps in memory


def home(settings: Settings) -> Path:
    """Return the folder that holds all files TorchServe writes."""
    return settings.state / "torchserve"


def config_file(settings: Settings) -> Path:
    """Return the path of config.properties."""
    return home(settings) / "config.properties"


def model_name(settings: Settings, version: str) -> str:
    """Return the name of a version's folder in the model store."""
    name = settings.serving.name
    return name if version == settings.serving.version else f"{name}--{version}"


def queue_size(settings: Settings) -> int:
    """Return how many requests may wait: four full batches for every worker (docs/torchserve.md, T8)."""
    return max(LEAST_QUEUE, 4 * settings.serving.batch_size * settings.serving.workers)


def body_budget(settings: Settings, limits: Limits) -> int:
    """Return how many bytes of bodies TorchServe may hold at one time: a 32nd of the memory, yet at least one largest body.

    TorchServe collects a whole body before it looks at its queue, so the front has to count (docs/torchserve.md, T8 and T10).

    Raises: SettingsError when heap, buffers and the front's files for this budget do not fit into the memory.
    """
    budget = max(settings.serving.max_body_bytes, min(memory_of(limits) // 32, LARGEST_BUDGET))
    needed = heap_bytes(limits, budget) + direct_bytes(limits, budget) + buffered_bytes(budget) + FRONT_MEMORY
    if needed > memory_of(limits):
        raise SettingsError(
            f"bodies of {settings.serving.max_body_bytes} bytes need {needed // MIB} MiB beside the model, and the memory limit is "
            f"{memory_of(limits) // MIB} MiB: lower max_body_mb, or raise resources.memory"
        )
    return budget


def memory_of(limits: Limits) -> int:
    """Return the memory limit in bytes, 4 GiB where there is none."""
    return limits.memory or 4096 * MIB


def heap_bytes(limits: Limits, budget: int) -> int:
    """Return the JVM's heap limit: TorchServe itself, and each body twice (a request, and its message to the worker).

    See docs/torchserve.md, T5 and T13.
    """
    return min(192 * MIB, memory_of(limits) // 8) + 2 * budget


def direct_bytes(limits: Limits, budget: int) -> int:
    """Return the limit of the JVM's buffers outside of the heap, where Netty collects each body and writes it to the worker."""
    return min(64 * MIB, memory_of(limits) // 16) + 2 * budget


def properties(
    settings: Settings, limits: Limits, ports: dict[str, int], manifests: Mapping[str, Mapping[str, Any]]
) -> dict[str, str]:
    """Return the content of config.properties. `manifests`: version -> `model` in its archive's manifest, default first.

    TorchServe knows a version by its archive's `modelVersion`, and the first that it loads answers requests that name none.
    """
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
        "inference_address": f"http://{inference_address(settings)}",
        # docs/torchserve.md, T15: nothing but the front is reachable from outside.
        "management_address": f"http://127.0.0.1:{ports['management']}",
        "metrics_address": f"http://127.0.0.1:{ports['metrics']}",
        "grpc_inference_address": "127.0.0.1",
        "grpc_inference_port": str(ports["grpc_inference"]),
        "grpc_management_address": "127.0.0.1",
        "grpc_management_port": str(ports["grpc_management"]),
        # Used only if TorchServe's native library cannot be loaded (a /tmp without exec): one port per worker, not unix sockets.
        "initial_worker_port": str(ports["workers"]),
        "enable_model_api": "false",
        # docs/torchserve.md, T16: a token would guard /ping as well and expires in an hour; the addresses above are the guard.
        "disable_token_authorization": "true",
        # docs/torchserve.md, T17: no URL matches, so nothing is ever downloaded.
        "allowed_urls": "^$",
        "use_env_allowed_urls": "false",
        "enable_envvars_config": "false",
        # docs/torchserve.md, T21: the image has the model's packages.
        "install_py_dep_per_model": "false",
        "model_store": str(home(settings) / "store"),
        "load_models": ",".join(f"{serving.name}={model_name(settings, version)}" for version in manifests),
        "models": json.dumps({serving.name: {known_as(manifest): model for manifest in manifests.values()}}),
        "default_workers_per_model": str(serving.workers),
        "default_response_timeout": str(serving.response_timeout_s),
        "default_startup_timeout": str(serving.startup_timeout_s),
        "job_queue_size": str(queue_size(settings)),
        # docs/torchserve.md, T14: the front refuses larger bodies first, with a JSON answer.
        # Our handlers parse bodies themselves, in one go and strictly; others get JSON and text decoded, as they expect.
        **({"decode_input_request": "false"} if parse_no_body(manifests.values()) else {}),
        "max_request_size": str(serving.max_body_bytes + 64 * 1024),
        "max_response_size": str(max(LARGEST_RESPONSE, 4 * serving.max_body_bytes)),
        "limit_max_image_pixels": "true",
        # docs/torchserve.md, T24: threads by the CPU limit, not by the host.
        "number_of_netty_threads": threads,
        "netty_client_threads": threads,
        **({"number_of_gpu": "0"} if serving.device == "cpu" else {}),
        "metrics_mode": "prometheus",
        "model_metrics_auto_detect": "true",
        # Its collector starts a Python process every minute for what the container's own metrics say better.
        "disable_system_metrics": "true",
    }


def parse_no_body(manifests: Collection[Mapping[str, Any]]) -> bool:
    """Return whether all handlers are Torchrelay's, which parse bodies themselves, strictly; others expect TorchServe to do it."""
    return {one.get("handler") for one in manifests} == {SERVICE}


def known_as(manifest: Mapping[str, Any]) -> str:
    """Return the version that TorchServe knows an archive by."""
    return str(manifest.get("modelVersion") or "1.0")


def inference_address(settings: Settings) -> str:
    """Return `host:port` of the inference API."""
    return INFERENCE if settings.front == "nginx" else f"{settings.bind}:{settings.port}"


def render(values: dict[str, str]) -> str:
    """Return `values` in the format of java.util.Properties."""
    return "".join(f"{key}={value}\n".replace("\\", "\\\\") for key, value in values.items())


def worker_threads(settings: Settings, limits: Limits) -> int:
    """Return the compute threads for each worker (docs/torchserve.md, T24)."""
    return max(1, int(limits.cpu) // (settings.serving.workers * len(settings.serving.folders)))


def server_env(settings: Settings, limits: Limits, env: dict[str, str]) -> dict[str, str]:
    """Return the environment of the JVM and of the workers that it starts."""
    serving = settings.serving
    threads = str(worker_threads(settings, limits))
    # TorchServe adds the folder of the version that a worker serves; that of one of several would hide the others' modules.
    own = [] if serving.versions else [str(serving.model_dir)]
    paths = [*own, *([str(serving.deps_dir)] if serving.deps_dir else []), env.get("PYTHONPATH", "")]
    result = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, **env, **serving.environment}
    result.pop("TS_CONFIG_FILE", None)  # it would replace our configuration
    return result | {
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "PYTHONUNBUFFERED": "1",
        "LOG_LOCATION": str(home(settings)),
        "METRICS_LOCATION": str(home(settings)),
        "TORCHRELAY_LOG_LEVEL": settings.log_level,
        **({"TORCHRELAY_CANCELLED": str(settings.state / CANCELLED)} if settings.front == "nginx" else {}),
    }


def java_argv(settings: Settings, limits: Limits, java: str, packages: Path) -> list[str]:
    """Return the command of the JVM."""
    folder, budget = home(settings), body_budget(settings, limits)
    return [
        java,
        f"-Xmx{heap_bytes(limits, budget) // MIB}m",
        f"-XX:MaxDirectMemorySize={direct_bytes(limits, budget) // MIB}m",
        # The second compiler takes CPU from the model for a minute after every start and makes the frontend no faster.
        "-XX:TieredStopAtLevel=1",
        "-XX:+ExitOnOutOfMemoryError",  # a server without memory must die visibly (docs/torchserve.md, T2) and not limp on
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
        str(config_file(settings)),
        "-s",
        str(folder / "store"),
        "-ncs",  # docs/torchserve.md, T22: no snapshots
    ]
