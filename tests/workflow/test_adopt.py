"""The repository under another name: `make adopt`, then act runs a model repository that calls it by that name."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.workflow.act import Act
from tests.workflow.conftest import Scene
from tests.workflow.repositories import OWN, export, git, used

NEW = "acme/serving"


def test_a_rehomed_copy_runs(start_act: Callable[..., Act], scene: Callable[..., Scene], tmp_path: Path) -> None:
    copy = export(tmp_path / "serving", leave_out=())
    git(copy, "init", "--quiet", "--initial-branch=main")
    git(copy, "add", "--all")
    git(copy, "commit", "--quiet", "--message", "as it was")
    done = subprocess.run(
        ["make", "adopt", "OWNER=acme", "REPO=serving"], cwd=copy, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert [name for name in used(copy) if name.startswith(f"{OWN}/")] == []
    repository, live = scene(own=NEW)
    repository.call({"dry-run": True})
    repository.commit("calls the new home")
    run = start_act(copy, own=NEW)(repository.folder, "push", repository.pushed())
    assert run.code == 0, run.transcript
    run.ran(plan="success", build="success", report="success")
    assert run.workflow_outputs["verdict"] == "passed"
    assert live.containers == {}
