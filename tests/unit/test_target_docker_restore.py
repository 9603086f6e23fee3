"""What the docker target goes back to: the version that was written down as proved, not one that a killed run left at the front."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.small_image import model
from torchrelay.core.progress import Quiet
from torchrelay.targets.contract import Context, Deployed, Record
from torchrelay.targets.docker.target import DockerTarget


def named(name: str, status: str = "running") -> Any:
    """Stands in for a version: its name, and its container's status."""
    return SimpleNamespace(name=name, container=SimpleNamespace(status=status))


@pytest.fixture
def target(tmp_path: Path) -> DockerTarget:
    return DockerTarget(Context(tmp_path, model(), Quiet(), tmp_path))


OLD, UNPROVED = named("old"), named("unproved")


@pytest.mark.parametrize(
    ("live", "written", "there", "back"),
    [
        (UNPROVED, "old", [UNPROVED, OLD], OLD),
        (UNPROVED, "old", [UNPROVED], UNPROVED),
        (UNPROVED, "old", [UNPROVED, named("old", "exited")], UNPROVED),  # proved after all, from elsewhere
        (UNPROVED, "unproved", [UNPROVED, OLD], UNPROVED),
        (UNPROVED, None, [UNPROVED, OLD], UNPROVED),
        (None, "old", [OLD], None),
    ],
)
def test_what_is_gone_back_to(target: DockerTarget, live: Any, written: str | None, there: list[Any], back: Any) -> None:
    containers: Any = SimpleNamespace(versions=lambda: there)
    record = Record(Deployed.now("sha256:1", "1", written) if written else None, None)
    assert target._proved(containers, live, record) is back
