"""Containers that a stage needs only while it runs: always removed, if need be by the next run after one that was killed."""

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
    """Return the label of a model directory's containers: a digest of this machine's name and the directory's path."""
    return hashlib.sha256(f"{platform.node()}\0{model_dir.resolve()}".encode()).hexdigest()[:24]


def sweep(client: "DockerClient", model_dir: Path) -> int:
    """Remove the containers that killed runs on this directory left, and return how many; the caller holds its lock."""
    left = client.containers.list(all=True, filters={"label": f"{LABEL}={owner(model_dir)}"}, ignore_removed=True)
    for container in left:
        log.info("removing %s, which a killed run left", container.name)
        _remove(client, str(container.id))
    return len(left)


@contextmanager
def scratch_container(
    client: "DockerClient", model_dir: Path, purpose: str, image: str, settings: dict[str, Any]
) -> Iterator["Container"]:
    """Create, but do not start, a container and remove it at the end; those of earlier, killed runs are removed first.

    `purpose` is part of its name.
    """
    sweep(client, model_dir)
    with _created(client, model_dir, purpose, image, settings) as container:
        yield container


@contextmanager
def companion_container(
    client: "DockerClient", model_dir: Path, purpose: str, image: str, settings: dict[str, Any]
) -> Iterator["Container"]:
    """Create, but do not start, a container beside a scratch container that stays; it is removed at the end in the same way."""
    with _created(client, model_dir, purpose, image, settings) as container:
        yield container


@contextmanager
def _created(client: "DockerClient", model_dir: Path, purpose: str, image: str, settings: dict[str, Any]) -> Iterator["Container"]:
    name = f"torchrelay-{purpose}-{uuid.uuid4().hex[:8]}"
    labels = {**settings.get("labels", {}), LABEL: owner(model_dir)}
    try:
        yield client.containers.create(image, **{**settings, "name": name, "labels": labels})
    finally:
        _remove(client, name)  # by name: Ctrl-C may arrive before the daemon has returned the id


def _remove(client: "DockerClient", name: str) -> None:
    """Remove a container by name or id, if it still exists."""
    with suppress(requests.HTTPError):  # docker.errors.APIError is one
        client.api.remove_container(name, v=True, force=True)
