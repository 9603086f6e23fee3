"""Asks a container from outside: by the trusted runtime image's own probe, in a second container that shares only its network.

The probe inside the model's image belongs to whoever built that image, who can replace it in a layer: it could print right answers
without a server. So nothing that the model's container prints is an answer; only what arrives over HTTP is one.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from torchrelay.docker.container import prober_settings
from torchrelay.docker.scratch import companion_container
from torchrelay.verification.prober import Address, ExecProber, container_prober

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.containers import Container

FRONT = Address("127.0.0.1", 8080)
"""Where the front of a model's container listens, on the loopback interface that both containers share."""


@contextmanager
def outside_prober(client: "DockerClient", model_dir: Path, container: "Container", runtime: str) -> Iterator[ExecProber]:
    """Start a container of the runtime image beside a running container, and return a prober that sends from it.

    `runtime` is the id of a trusted image (`image.runtime.trusted_runtime`), never one that the model's image names.
    """
    with companion_container(client, model_dir, "prober", runtime, prober_settings(str(container.id))) as prober:
        prober.start()
        yield container_prober(prober, f"container {container.name}", f"docker logs {container.name}", FRONT)
