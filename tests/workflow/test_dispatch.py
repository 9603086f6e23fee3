"""Manual runs: `skip` leaves stages out, and a wrong input is our error, because act checks no inputs."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.workflow.act import Act, Run
from tests.workflow.conftest import Deployed, Scene
from tests.workflow.repositories import branched, export, git

# inputs, and a part of the error
BAD: dict[str, tuple[dict[str, object], str]] = {
    "unknown_models": ({"models": "nowhere"}, "has no model.yaml"),
    "models_outside": ({"models": "../../etc"}, "is outside the repository"),
    "skip_of_a_gate": ({"skip": "verify"}, "cannot be skipped"),
    "dry_run_is_maybe": ({"dry-run": "maybe"}, "dry-run"),
    "target": ({"target": "kubernets"}, "kubernetes"),
    "role": ({"aws-role": "arn:aws:iam::1:user/me", "aws-region": "eu-west-1"}, "aws-role"),
    "url": ({"live-url": "file:///etc/passwd"}, "live-url"),
    "repository": ({"repository": "no_host"}, "repository"),
}


@pytest.fixture(scope="module")
def refused(act: Act, scene: Callable[..., Scene]) -> dict[str, Run]:
    repository, _ = scene()

    def one(name: str) -> Run:
        mine = branched(repository, "main", name)
        mine.call(BAD[name][0])
        mine.commit(name)
        return act(mine.folder, "workflow_dispatch", mine.dispatched())

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(BAD, pool.map(one, BAD), strict=True))


@pytest.mark.parametrize("name", BAD)
def test_a_wrong_input_is_one_clear_error(refused: dict[str, Run], name: str) -> None:
    run, part = refused[name], BAD[name][1]
    assert run.code == 1
    assert run.results["plan"] == "failure", run.transcript
    assert [job.id for job in run.jobs if job.id in ("build", "deploy") and job.result != "skipped"] == [], run.transcript
    (error,) = [one for one in run.annotations if one.level == "error"]
    assert part in error.message, run.transcript
    assert "fix:" in error.message
    assert "Traceback" not in run.raw


def test_a_dry_run_verifies_and_changes_nothing(deployed: Deployed, act: Act) -> None:
    before = deployed.live.world
    repository = branched(deployed.repository, "main")
    repository.edit("model.py", '"""One linear', '"""No more than one linear')
    repository.call({"dry-run": True})
    repository.commit("to be tried")
    run = act(repository.folder, "workflow_dispatch", repository.dispatched(**{"dry-run": "true"}))
    assert run.code == 0, run.transcript
    run.ran(plan="success", build="success", report="success")
    assert run.workflow_outputs["verdict"] == "passed"
    assert deployed.live.world == before


def test_deploy_is_skipped(deployed: Deployed, act: Act) -> None:
    before = deployed.live.world
    repository = branched(deployed.repository, "main")
    repository.call({"skip": "deploy\ndiff"})
    repository.commit("without deploy")
    run = act(repository.folder, "push", repository.pushed(deployed.repository.head))
    assert run.code == 0, run.transcript
    run.ran(plan="success", build="success", report="success")
    assert deployed.live.world == before


def test_serve_itself_by_hand(act: Act, tmp_path: Path) -> None:
    """serve.yml runs by hand too, when the models are in the same repository."""
    folder = export(tmp_path / "models")
    git(folder, "init", "--quiet", "--initial-branch=main")
    git(folder, "remote", "add", "origin", "https://github.com/acme/models.git")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "with serve.yml")
    inputs = {"models": "examples/tabular", "dry-run": "true"}  # in the event: act heeds no --input beside one
    payload = {"ref": "refs/heads/main", "inputs": inputs, "repository": {"default_branch": "main"}}
    run = act(folder, "workflow_dispatch", payload, arguments=("-W", ".github/workflows/serve.yml"))
    assert run.code == 0, run.transcript
    assert run.results == {"plan": "success", "build/tabular": "success", "report": "success"}, run.transcript
    assert run.outputs("report")["verdict"] == "passed"
