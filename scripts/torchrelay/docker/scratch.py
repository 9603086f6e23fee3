"""Containers that a stage needs only while it runs: removed in any case, and swept by the next run when that one was killed."""

import hashlib
import platform
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import requests

from torchrelay.core.log import log

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.containers import Container

LABEL = "org.torchrelay.scratch"


def owner(model_dir: Path) -> str:
    """Return what a model directory's containers are labelled with: its place, on this machine."""
    return hashlib.sha256(f"{platform.node()}\0{model_dir.resolve()}".encode()).hexdigest()[:24]


def sweep(client: "DockerClient", model_dir: Path) -> int:
    """Remove what killed runs over this directory left, and say how many; the caller holds the directory's lock."""
    left = client.containers.list(all=True, filters={"label": f"{LABEL}={owner(model_dir)}"}, ignore_removed=True)
    for container in left:
        log.info("removing %s, which a killed run left", container.name)
        _remove(client, str(container.id))
    return len(left)


@contextmanager
def scratch_container(
    client: "DockerClient", model_dir: Path, purpose: str, image: str, settings: dict[str, Any]
) -> Iterator["Container"]:
    """Give a created, not started, container and remove it in any case; what an earlier, killed run left goes first.

    `purpose` is part of its name.
    """
    sweep(client, model_dir)
    name = f"torchrelay-{purpose}-{uuid.uuid4().hex[:8]}"
    labels = {**settings.get("labels", {}), LABEL: owner(model_dir)}
    try:
        yield client.containers.create(image, **{**settings, "name": name, "labels": labels})
    finally:
        _remove(client, name)  # by name: Ctrl-C may come before the daemon has told the id


def _remove(client: "DockerClient", name: str) -> None:
    """Remove a container by name or id; one that is gone, or going, is no matter."""
    with suppress(requests.HTTPError):  # docker.errors.APIError is one
        client.api.remove_container(name, v=True, force=True)
