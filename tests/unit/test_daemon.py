"""What is sent to the Docker daemon, and a daemon that is refused before a byte is sent."""

from pathlib import Path
from typing import Any

import docker
import pytest

from tests.unit.model_dirs import GOOD_YAML, write
from torchrelay.core.errors import DockerUnavailable
from torchrelay.core.progress import Quiet
from torchrelay.docker.container import hardened
from torchrelay.docker.daemon import load
from torchrelay.model.server_config import load_model
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


def test_a_gpu_model_asks_docker_for_gpus(tmp_path: Path) -> None:
    model = load_model(write(tmp_path, {"model.yaml": f"{GOOD_YAML}device: gpu\nresources: {{gpu: 2}}\n"}))
    requests = docker.types.HostConfig(version="1.41", device_requests=hardened(model, "name", {})["device_requests"])
    assert requests["DeviceRequests"] == [{"Driver": "", "Count": 2, "DeviceIDs": [], "Capabilities": [["gpu"]], "Options": {}}]
