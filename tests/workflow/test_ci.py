"""This repository's own CI: the jobs that use every action by its full name, as callers do."""

from __future__ import annotations

from pathlib import Path

import docker
import pytest

from tests.container.relay.runs import removed_afterwards
from tests.integration.conftest import free_port
from tests.workflow.act import Act, Run
from tests.workflow.repositories import export, git

CI = ".github/workflows/__ci.yml"


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A commit of this repository, whose example has another name and port: other tests deploy that example too."""
    folder = export(tmp_path_factory.mktemp("ci") / "deploy")
    port = free_port()
    for file, old, new in [
        (CI, "http://127.0.0.1:8080", f"http://127.0.0.1:{port}"),
        (CI, "results/tabular-deploy.json", "results/ci-tabular-deploy.json"),
        ("examples/tabular/model.yaml", "docker: {port: 8080}", f"docker: {{port: {port}}}"),
        ("examples/tabular/model.yaml", "name: tabular", "name: ci-tabular"),
    ]:
        text = (folder / file).read_text()
        assert old in text
        (folder / file).write_text(text.replace(old, new))
    git(folder, "init", "--quiet", "--initial-branch=main")
    git(folder, "remote", "add", "origin", "https://github.com/org/deploy.git")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "everything")
    return folder


def run_job(act: Act, repository: Path, job: str, *arguments: str) -> Run:
    payload = {"ref": "refs/heads/main", "inputs": {}, "repository": {"default_branch": "main"}}
    return act(repository, "workflow_dispatch", payload, arguments=("-W", CI, "-j", job, *arguments), timeout=600)


def test_every_action(act: Act, repository: Path, registry_host: str, client: docker.DockerClient) -> None:
    with removed_afterwards(client, "ci-tabular"):
        run = run_job(act, repository, "actions", "--var", f"CI_REPOSITORY={registry_host}/ci/actions")
    assert run.code == 0, run.transcript
    assert run.results == {"actions": "success"}, run.transcript


def test_steps_that_must_fail(act: Act, repository: Path) -> None:
    run = run_job(act, repository, "refusals")
    assert run.code == 0, run.transcript
    assert run.results == {"refusals": "success"}, run.transcript
