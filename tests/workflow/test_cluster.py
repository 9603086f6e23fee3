"""A push becomes pods: the same caller with the target kubernetes, on the real cluster of tests/cluster."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cluster.cluster import Cluster
from tests.workflow.act import Act
from tests.workflow.conftest import Scene
from tests.workflow.repositories import ModelRepository
from torchrelay.core.progress import Quiet
from torchrelay.targets import Context
from torchrelay.targets.kubernetes.target import KubernetesTarget
from torchrelay.verification.prober import ProbeRequest


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[str]:
    name = "workflow"
    cluster.run("create", "namespace", name)
    cluster.run("label", "namespace", name, "pod-security.kubernetes.io/enforce=restricted")
    yield name
    cluster.run("delete", "namespace", name, "--wait=false")


def answer(repository: ModelRepository, scratch: Path) -> float:
    """Return the Service's answer for an iris setosa."""
    from torchrelay.model.model import load_model

    model = load_model(repository.folder)
    body = json.dumps([5.1, 3.5, 1.4, 0.2]).encode()
    request = ProbeRequest("1", "POST", f"/predictions/{model.name}", "application/json", body)
    seen = KubernetesTarget(Context(repository.folder, model, Quiet(), scratch)).invoke(request)
    assert seen.status == 200, seen
    return float(json.loads(seen.body)[0])


def test_a_push_becomes_pods_and_a_bad_one_does_not(
    act: Act, scene: Callable[..., Scene], cluster: Cluster, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig))
    secrets = {"KUBECONFIG": cluster.kubeconfig.read_text()}
    repository, live = scene(target="kubernetes", repository=f"{cluster.registry}/workflow/")
    text = (repository.folder / "model.yaml").read_text()
    targets = f"targets: {{kubernetes: {{namespace: {namespace}}}}}\n"
    repository.write("model.yaml", text.split("targets:")[0] + targets)
    repository.call(secrets={"kubeconfig": "KUBECONFIG"})
    repository.commit("to the cluster")
    run = act(repository.folder, "push", repository.pushed(), secrets=secrets, timeout=280)
    assert run.code == 0, run.transcript
    run.ran(plan="success", build="success", deploy="success", report="success")
    assert run.workflow_outputs["verdict"] == "passed"
    deployment = json.loads(cluster.run("-n", namespace, "get", "deployment", live.name, "-o", "json").stdout)
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert container["image"] == run.workflow_outputs["image"]
    assert deployment["status"]["readyReplicas"] == 1
    assert deployment["metadata"]["annotations"]["torchrelay.org/commit"] == repository.head
    assert answer(repository, tmp_path) > 0.99
    assert secrets["KUBECONFIG"] not in run.raw

    before = repository.head
    repository.edit("model.py", "self.fc(x), dim=-1", "self.fc(x) * 0, dim=-1")
    repository.commit("wrong answers")
    bad = act(repository.folder, "push", repository.pushed(before), secrets=secrets, timeout=280)
    assert bad.code == 1
    assert bad.outputs("report")["verdict"] == "gate_failed", bad.transcript
    assert answer(repository, tmp_path) > 0.99
