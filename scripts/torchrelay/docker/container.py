"""The settings of the hardened containers of a verification: the one that serves the image, and the prober beside it."""

from typing import Any

from torchrelay.model.model import Model
from torchrelay.oci.image import Image

PROBER_PIDS = 256
PROBER_MEMORY = 3 << 30
"""Bytes for all requests of one batch and their answers, which the probe limits (torchrelay_runtime/probe.py)."""


def hardened(model: Model, name: str, labels: dict[str, str]) -> dict[str, Any]:
    """Return the container's settings for docker's API: its limits, and what it is not allowed to do."""
    settings: dict[str, Any] = {
        "name": name,
        "network_mode": "none",
        "read_only": True,
        "tmpfs": {"/tmp": "rw,nosuid,nodev"},  # noqa: S108 -- inside the container
        "user": "1000:1000",
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],
        "pids_limit": 4096,
        "mem_limit": model.memory_bytes,
        "memswap_limit": model.memory_bytes,
        "nano_cpus": int(model.resources.cpu * 1e9),
        "labels": labels,
        "healthcheck": {"test": ["NONE"]},
    }
    if model.gpus:
        settings["device_requests"] = [{"count": model.gpus, "capabilities": [["gpu"]]}]
    return settings


def prober_settings(container_id: str) -> dict[str, Any]:
    """Return the settings of a container that shares another one's network, and nothing else: it waits, and commands run in it."""
    return {
        "entrypoint": ["sleep"],
        "command": ["infinity"],
        "network_mode": f"container:{container_id}",
        "read_only": True,
        "user": "1000:1000",
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],
        "pids_limit": PROBER_PIDS,
        "mem_limit": PROBER_MEMORY,
        "memswap_limit": PROBER_MEMORY,
        "healthcheck": {"test": ["NONE"]},
    }


def local_tag(name: str, image: Image) -> str:
    """Return the tag that the image has in the local daemon."""
    return f"torchrelay/{name}:{image.config_digest[7:19]}"
