"""The Docker daemon: connects to it and loads images into it, always through its API."""

import itertools
import json
import os
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import docker
import requests
from docker import DockerClient

from torchrelay.core.errors import BuildFailed, DockerRefused, DockerUnavailable
from torchrelay.core.progress import Progress
from torchrelay.core.text import first_line

if TYPE_CHECKING:
    from torchrelay.oci.image import Image

TIMEOUT_S = 600


def connect() -> DockerClient:
    """Return a client of the daemon that the environment names (DOCKER_HOST, otherwise the local socket).

    Raises DockerUnavailable when none answers.
    """
    try:
        client = docker.from_env(timeout=TIMEOUT_S)
        client.ping()
    except (docker.errors.DockerException, OSError, ValueError) as error:
        where = os.environ.get("DOCKER_HOST", "the local socket")
        raise DockerUnavailable(
            f"no Docker daemon answers at {where}: {_reason(error)}",
            "start Docker, or set DOCKER_HOST to where it listens (see `docker context inspect`); `--target local` needs none",
        ) from error
    return client


def _reason(error: BaseException) -> str:
    """Return why no connection was made: the system's own words, where docker's error contains them."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = next((one for one in cause.args if isinstance(one, BaseException)), None) or cause.__cause__ or cause.__context__
    return first_line(error)


@contextmanager
def daemon() -> Iterator[DockerClient]:
    """Connect to the daemon, and close the connection at the end.

    Raises DockerUnavailable, DockerRefused.
    """
    client = connect()
    try:
        yield client
    except docker.errors.APIError as error:
        reason = str(error.explanation or error).strip()
        raise DockerRefused(f"the Docker daemon refused: {reason}", _fix(reason)) from error
    except requests.RequestException as error:
        raise DockerUnavailable(f"the Docker daemon stopped answering: {first_line(error)}", "check the daemon's log") from error
    finally:
        client.close()


def _fix(reason: str) -> str:
    if "CPUs" in reason:
        return "lower resources.cpu in model.yaml: this machine has fewer"
    if "device driver" in reason or "nvidia" in reason.lower():
        return "install the NVIDIA container toolkit, or set device: cpu in model.yaml"
    if "memory" in reason.lower():
        return "correct resources.memory in model.yaml"
    return "check the daemon's log"


def has_image(client: DockerClient, reference: str) -> bool:
    """Return whether the daemon has an image with this tag or id (`sha256:` of its config)."""
    try:
        client.images.get(reference)
    except docker.errors.ImageNotFound:
        return False
    return True


def _known_layers(client: DockerClient, image: "Image") -> int:
    """Count the layers from the bottom that some image of the daemon already has in this order."""
    diff_ids = [layer.diff_id for layer in image.layers]
    best = 0
    for present in client.api.images():
        with suppress(docker.errors.ImageNotFound):  # removed after it was listed
            layers = client.images.get(present["Id"]).attrs["RootFS"].get("Layers") or []
            same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(layers, diff_ids, strict=False))
            best = max(best, sum(1 for _ in same))
    return best


def _archive(image: "Image", tag: str, skip: int) -> Iterator[bytes]:
    """Yield a docker-archive; the first `skip` layers are named but left out, because the daemon has them.

    dockerd looks a layer up by its chain of diff ids before it opens the file (moby `image/tarexport/load.go`).
    """
    config_name = image.config_digest.removeprefix("sha256:") + ".json"
    names = [layer.diff_id.removeprefix("sha256:") + "/layer.tar" for layer in image.layers]
    manifest = json.dumps([{"Config": config_name, "RepoTags": [tag], "Layers": names}]).encode()
    for name, data in (("manifest.json", manifest), (config_name, image.config_bytes)):
        yield from _member(name, len(data), iter([data]))
    for index, (name, layer) in enumerate(zip(names, image.layers, strict=True)):
        if index >= skip and name not in names[:index]:
            yield from _member(name, layer.blob.size, layer.blob.chunks())
    yield bytes(1024)


def _member(name: str, size: int, chunks: Iterator[bytes]) -> Iterator[bytes]:
    info = tarfile.TarInfo(name)
    info.size = size
    yield info.tobuf(tarfile.PAX_FORMAT)
    yield from chunks
    yield bytes(-size % 512)


def require_config_ids(client: DockerClient) -> None:
    """Refuse a daemon whose image ids are manifest digests: the verified digest is the config's.

    Raises DockerUnavailable.
    """
    rows = client.info().get("DriverStatus") or []
    if any("io.containerd.snapshotter" in str(part) for row in rows for part in row):
        raise DockerUnavailable(
            "this Docker daemon keeps images in the containerd image store, whose digests differ from the verified one",
            'set `"features": {"containerd-snapshotter": false}` in its daemon.json and restart it: the classic store is supported',
        )


def load(client: DockerClient, image: "Image", tag: str, progress: Progress) -> bool:
    """Load an image into the daemon under a tag; layers that it has are not sent. Return False when it had the image.

    Raises BuildFailed when the daemon refuses the image or ends up with another config digest.
    """
    if has_image(client, image.config_digest):
        client.images.get(image.config_digest).tag(tag)
        return False
    require_config_ids(client)
    failure = ""
    for skip in dict.fromkeys([_known_layers(client, image), 0]):
        failure = _load(client, image, tag, skip, progress)
        if has_image(client, image.config_digest):
            return True
    raise BuildFailed(f"the Docker daemon did not accept the image: {failure or 'no reason given'}", "check the daemon's log")


def _load(client: DockerClient, image: "Image", tag: str, skip: int, progress: Progress) -> str:
    total = sum(layer.blob.size for layer in image.layers[skip:])
    with progress.task("load into Docker", total) as task:

        def counted() -> Iterator[bytes]:
            for chunk in _archive(image, tag, skip):
                task.advance(len(chunk))
                yield chunk

        messages: list[dict[str, Any]] = list(client.api.load_image(counted(), quiet=False))  # type: ignore[no-untyped-call] # the stubs leave it out
    return " ".join(str(message["error"]) for message in messages if "error" in message)
