"""The docker target restores the recorded, verified version, not one that a killed run left behind the front."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.small_image import model
from torchrelay.core.progress import Quiet
from torchrelay.targets.contract import Context, Deployed, DeploymentRecord
from torchrelay.targets.docker.target import DockerTarget


def named(name: str, status: str = "running") -> Any:
    """A fake version: its name, and its container's status."""
    return SimpleNamespace(name=name, container=SimpleNamespace(status=status))


@pytest.fixture
def target(tmp_path: Path) -> DockerTarget:
    return DockerTarget(Context(tmp_path, model(), Quiet(), tmp_path))


OLD, UNVERIFIED = named("old"), named("unverified")


@pytest.mark.parametrize(
    ("live", "recorded", "versions", "restored"),
    [
        (UNVERIFIED, "old", [UNVERIFIED, OLD], OLD),
        (UNVERIFIED, "old", [UNVERIFIED], UNVERIFIED),
        (UNVERIFIED, "old", [UNVERIFIED, named("old", "exited")], UNVERIFIED),  # verified after all, by another copy
        (UNVERIFIED, "unverified", [UNVERIFIED, OLD], UNVERIFIED),
        (UNVERIFIED, None, [UNVERIFIED, OLD], UNVERIFIED),
        (None, "old", [OLD], None),
    ],
)
def test_the_restored_version(target: DockerTarget, live: Any, recorded: str | None, versions: list[Any], restored: Any) -> None:
    containers: Any = SimpleNamespace(versions=lambda: versions)
    record = DeploymentRecord(Deployed.now("sha256:1", "1", recorded) if recorded else None, None)
    assert target._last_verified(containers, live, record) is restored
