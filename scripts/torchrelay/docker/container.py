"""The settings of the hardened container in which an image is verified."""

from typing import Any

from torchrelay.model.model import Model
from torchrelay.oci.image import Image


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


def local_tag(name: str, image: Image) -> str:
    """Return the tag that the image has in the local daemon."""
    return f"torchrelay/{name}:{image.config_digest[7:19]}"
