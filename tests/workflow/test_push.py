"""A push of a model repository becomes an endpoint; a second one with nothing new moves nothing."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import requests

from tests.workflow.act import Act, Run
from tests.workflow.conftest import Live
from tests.workflow.repositories import ModelRepository

Scene = tuple[ModelRepository, Live]


@pytest.fixture(scope="module")
def pushed(act: Act, scene: Callable[..., Scene]) -> tuple[ModelRepository, Live, Run]:
    repository, live = scene()
    return repository, live, act(repository.folder, "push", repository.pushed())


def test_every_job_ran(pushed: tuple[ModelRepository, Live, Run]) -> None:
    _, _, run = pushed
    assert run.code == 0, run.told
    run.ran(plan="success", build="success", deploy="success", report="success")


def test_the_endpoint_answers(pushed: tuple[ModelRepository, Live, Run]) -> None:
    repository, live, run = pushed
    assert live.ask() == pytest.approx([0.9944, 0.0056, 0.0], abs=1e-3), run.told
    assert live.serving["org.torchrelay.commit"] == repository.head


def test_the_image_is_in_the_registry(pushed: tuple[ModelRepository, Live, Run]) -> None:
    _, live, run = pushed
    name, _, digest = run.given["image"].partition("@")
    assert name == f"{live.registry}/models/{live.name}", run.told
    found = requests.get(f"http://{live.registry}/v2/models/{live.name}/manifests/{digest}", timeout=5)
    assert found.headers["Docker-Content-Digest"] == digest
    assert found.json()["mediaType"] == "application/vnd.oci.image.manifest.v1+json"


def test_what_the_caller_is_given(pushed: tuple[ModelRepository, Live, Run]) -> None:
    _, live, run = pushed
    assert run.given["endpoint"] == live.url
    assert run.given["verdict"] == "passed"
    assert json.loads(run.given["results"])[live.name]["result"] == "passed"
