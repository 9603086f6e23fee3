"""A Docker daemon that is refused before a byte is sent."""

from typing import Any

import docker
import pytest

from torchrelay.core.errors import DockerUnavailable
from torchrelay.core.progress import Quiet
from torchrelay.docker.daemon import load
from torchrelay.oci.image import Image


class Daemon:
    """A daemon with the containerd image store, which has no image and must not receive any."""

    def __init__(self) -> None:
        self.images = self

    def info(self) -> dict[str, Any]:
        return {"DriverStatus": [["driver-type", "io.containerd.snapshotter.v1"]]}

    def get(self, name: str) -> None:
        raise docker.errors.ImageNotFound(name)


def test_nothing_is_sent_to_a_store_with_other_image_ids() -> None:
    daemon: Any = Daemon()
    with pytest.raises(DockerUnavailable) as caught:
        load(daemon, Image({"rootfs": {"diff_ids": []}}, (), {}), "torchrelay/m:1", Quiet())
    assert "containerd-snapshotter" in caught.value.fix
