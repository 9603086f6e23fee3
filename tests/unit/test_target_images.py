"""Daemons whose image ids cannot be compared with the verified digest."""

from typing import Any

import docker
import pytest

from tests import messages
from tests.errors import fails
from torchrelay.core.errors import DeployFailed, DockerUnavailable
from torchrelay.core.progress import Quiet
from torchrelay.model.model import Model
from torchrelay.targets.contract import Release
from torchrelay.targets.docker.images import image_id

MODEL = Model.model_validate({"name": "model", "weights": "model.pt", "handler": "handler.py"})
RELEASE = Release("one", "sha256:" + "0" * 64, ())


class Daemon:
    """Answers `docker info` as a daemon with this storage driver does, and has no image of that id."""

    def __init__(self, status: list[list[str]] | None) -> None:
        self.status = status
        self.images = self

    def info(self) -> dict[str, Any]:
        return {"Driver": "overlayfs", "DriverStatus": self.status}

    def get(self, name: str) -> None:
        raise docker.errors.ImageNotFound(name)


def test_the_containerd_image_store_is_refused_with_the_fix() -> None:
    daemon: Any = Daemon([["driver-type", "io.containerd.snapshotter.v1"]])
    with fails(DockerUnavailable, words=messages.CONTAINERD_STORE) as caught:
        image_id(daemon, MODEL, RELEASE, Quiet())
    assert '"containerd-snapshotter": false' in caught.value.fix


@pytest.mark.parametrize("status", [None, [], [["Backing Filesystem", "extfs"], ["Supports d_type", "true"]]])
def test_the_classic_store_only_lacks_the_image(status: list[list[str]] | None) -> None:
    daemon: Any = Daemon(status)
    with fails(DeployFailed, words=messages.DAEMON_NO_IMAGE):
        image_id(daemon, MODEL, RELEASE, Quiet())
