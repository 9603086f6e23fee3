"""A push becomes an endpoint; without changes nothing is transferred; a bad version does not touch the live one."""

from __future__ import annotations

import json

import pytest
import requests

from tests.workflow.act import Act
from tests.workflow.conftest import Deployed
from tests.workflow.repositories import branched

SETOSA = pytest.approx([0.9944, 0.0056, 0.0], abs=1e-3)


def test_every_job_ran(deployed: Deployed) -> None:
    assert deployed.run.code == 0, deployed.run.transcript
    deployed.run.ran(plan="success", build="success", deploy="success", report="success")


def test_the_endpoint_answers(deployed: Deployed) -> None:
    assert deployed.live.ask() == SETOSA
    labels = deployed.live.serving
    assert labels["org.torchrelay.commit"] == deployed.repository.head
    assert labels["org.torchrelay.sequence"] == "1"
    assert labels["org.torchrelay.repository"] == "acme/models"


def test_the_image_is_in_the_registry(deployed: Deployed) -> None:
    live = deployed.live
    name, _, digest = deployed.run.workflow_outputs["image"].partition("@")
    assert name == f"{live.registry}/models/{live.name}", deployed.run.transcript
    headers = {"Accept": "application/vnd.oci.image.manifest.v1+json"}
    manifest = requests.get(f"http://{live.registry}/v2/models/{live.name}/manifests/{digest}", headers=headers, timeout=5)
    assert manifest.headers["Docker-Content-Digest"] == digest


def test_what_the_caller_is_given(deployed: Deployed) -> None:
    outputs = deployed.run.workflow_outputs
    assert outputs["endpoint"] == deployed.live.url
    assert outputs["verdict"] == "passed"
    assert json.loads(outputs["results"])[deployed.live.name]["result"] == "passed"


def test_the_summaries(deployed: Deployed) -> None:
    build, deploy = deployed.run.summary("build"), deployed.run.summary("deploy")
    assert "```mermaid" in build
    for sample in ("setosa", "text_is_refused"):
        assert f"`{sample}`" in build, build
    image = deployed.run.workflow_outputs["image"]
    assert deployed.live.url in deploy
    assert image.partition("@")[2] in deploy
    assert deployed.live.name in deployed.run.summary("report")


def test_nothing_moves_when_nothing_changed(deployed: Deployed, act: Act) -> None:
    """The same commit again, like "Re-run all jobs": all work is reused."""
    before = deployed.live.world
    run = act(deployed.repository.folder, "push", deployed.repository.pushed())
    run.ran(plan="success", build="success", deploy="success", report="success")
    assert run.workflow_outputs["verdict"] == "passed", run.transcript
    assert run.workflow_outputs["image"] == deployed.run.workflow_outputs["image"]
    assert run.outputs("deploy")["bytes"] == "0"
    assert deployed.live.world == before


def test_a_failing_sample_changes_nothing_live(deployed: Deployed, act: Act) -> None:
    live, before = deployed.live, deployed.live.world
    repository = branched(deployed.repository, "main")
    text = (repository.folder / "samples/setosa.json").read_text()
    repository.write("samples/setosa.json", text.replace("0.9944", "0.5"))
    line = next(n for n, one in enumerate(text.splitlines(), 1) if '"request"' in one)
    since = deployed.repository.head
    repository.commit("a wrong expectation")
    run = act(repository.folder, "push", repository.pushed(since))
    assert run.code == 1
    assert run.results == {
        "plan": "success",
        f"build/{live.name}": "failure",
        f"deploy/{live.name}": "failure",
        "report": "failure",
    }, run.transcript
    assert run.outputs("report")["verdict"] == "gate_failed", run.transcript
    places = [(one.file, one.line) for one in run.annotations if one.level == "error" and one.file]
    assert places == [("samples/setosa.json", str(line))], run.transcript
    assert "setosa" in run.summary("build")
    assert live.ask() == SETOSA
    assert live.world == before
