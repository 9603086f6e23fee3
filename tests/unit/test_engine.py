"""What the engine refuses before a byte is sent, and how it tells."""

from typing import Any

import pytest

from torchrelay.engine import require_config_ids
from torchrelay.errors import DockerUnavailable


class Daemon:
    """As much of a Docker client as is asked here."""

    def __init__(self, status: Any) -> None:
        self.status = status

    def info(self) -> dict[str, Any]:
        return {"DriverStatus": self.status}


def test_the_containerd_image_store_is_refused_with_the_mend() -> None:
    with pytest.raises(DockerUnavailable) as caught:
        require_config_ids(Daemon([["driver-type", "io.containerd.snapshotter.v1"]]))  # type: ignore[arg-type]
    assert "containerd-snapshotter" in caught.value.fix


@pytest.mark.parametrize("status", [None, [], [["Backing Filesystem", "extfs"], ["Supports d_type", "true"]]])
def test_the_classic_store_is_taken(status: Any) -> None:
    require_config_ids(Daemon(status))  # type: ignore[arg-type]
