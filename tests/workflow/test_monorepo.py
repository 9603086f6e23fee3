"""Fifty models, of which one has changed: only that one is built, and the plan takes seconds."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from tests.container.relay.runs import removed_afterwards
from tests.workflow.act import Act
from tests.workflow.repositories import ModelRepository

MODELS = 50
PLAN_S = 20.0


CHANGED = 17


@pytest.fixture(scope="module")
def monorepo(client: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ModelRepository, str]]:
    repository, prefix = fifty(tmp_path_factory.mktemp("monorepo") / "models")
    with removed_afterwards(client, f"{prefix}-{CHANGED}"):
        yield repository, prefix


def fifty(folder: Path) -> tuple[ModelRepository, str]:
    """A repository of many models with some history, and the prefix of their names."""
    prefix = f"wf-{secrets.token_hex(3)}"
    repository = ModelRepository(folder, {"models": "models/*", "skip": "deploy"})
    for number in range(MODELS):
        repository.add_model(f"{prefix}-{number}", 8080, f"models/m{number}")
        repository.commit(f"model {number}")
    return repository, prefix


def test_one_of_fifty(monorepo: tuple[ModelRepository, str], act: Act) -> None:
    repository, prefix = monorepo
    before = repository.head
    repository.edit(f"models/m{CHANGED}/model.py", '"""One linear', '"""Still one linear')
    repository.commit("change one")
    run = act(repository.folder, "push", repository.pushed(before))
    assert run.code == 0, run.transcript
    assert run.results == {"plan": "success", f"build/{prefix}-{CHANGED}": "success", "report": "success"}, run.transcript
    (plan,) = [job for job in run.jobs if job.id == "plan"]
    assert plan.seconds < PLAN_S


def test_none_of_fifty(monorepo: tuple[ModelRepository, str], act: Act) -> None:
    repository, _ = monorepo
    before = repository.head
    repository.write("notes.txt", "no file of any model")
    repository.commit("change none")
    run = act(repository.folder, "push", repository.pushed(before))
    assert run.code == 0, run.transcript
    run.ran(plan="success")
    assert run.outputs("plan")["count"] == "0"
