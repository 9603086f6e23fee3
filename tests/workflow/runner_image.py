"""The image for jobs in container mode: the tests' base image plus the programs of a hosted runner that our actions need.

It stands in for ghcr.io/catthehacker/ubuntu, which cannot be reached here: git, node for JavaScript actions, Python with venv.
"""

from __future__ import annotations

import io
import tarfile

import docker

from tests.container.base_image import ensure_base_image
from tests.container.harness import add

DOCKERFILE = """\
FROM {base}
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates git nodejs python3 python3-venv \\
 && rm -rf /var/lib/apt/lists/*
"""
TAG = "torchrelay-test/runner:bookworm-1"


def ensure_runner_image(client: docker.DockerClient) -> str:
    """Return the image's tag; it is built once."""
    try:
        client.images.get(TAG)
    except docker.errors.ImageNotFound:
        context = io.BytesIO()
        with tarfile.open(fileobj=context, mode="w") as archive:
            add(archive, "Dockerfile", DOCKERFILE.format(base=ensure_base_image()).encode())
        context.seek(0)
        client.images.build(fileobj=context, custom_context=True, tag=TAG, rm=True)
    return TAG
