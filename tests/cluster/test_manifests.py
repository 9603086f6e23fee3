"""k8s/base and what is rendered over it, as a real API server sees them: strictly, and under restricted Pod Security."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import yaml

from tests.cluster.cluster import Cluster
from torchrelay.model.model import Model
from torchrelay.targets import Release
from torchrelay.targets.kubernetes.manifests import BASE, render

DIGEST = "sha256:" + "a" * 64
KINDS = {"ServiceAccount", "Service", "Deployment", "PodDisruptionBudget"}


def model(**changes: object) -> Model:
    return Model.model_validate({"name": "digits", "weights": "model.pt", "handler": "tensor"} | changes)


def taken(cluster: Cluster, namespace: str, text: str) -> tuple[int, str]:
    """Let the API server look at manifests, strictly; gives its exit code and all that it says, warnings included."""
    command = ["--namespace", namespace, "apply", "--dry-run=server", "--validate=strict", "--filename", "-"]
    done = cluster.run(*command, stdin=text, check=False)
    return done.returncode, done.stdout + done.stderr


def test_the_base_is_complete_and_taken_alone(cluster: Cluster, namespace: Callable[[], str]) -> None:
    rendered = cluster.run("kustomize", str(BASE)).stdout
    assert {document["kind"] for document in yaml.safe_load_all(rendered)} == KINDS
    code, said = taken(cluster, namespace(), rendered)
    assert (code, said.count("created (server dry run)"), "Warning" in said) == (0, len(KINDS), False), said


@pytest.mark.parametrize(
    "changes",
    [{}, {"device": "gpu", "resources": {"cpu": 0.5, "memory": "1.5G"}}, {"targets": {"kubernetes": {"replicas": 3}}}],
    ids=["as it comes", "gpu", "replicas"],
)
def test_what_is_rendered_is_taken(cluster: Cluster, namespace: Callable[[], str], changes: dict[str, object]) -> None:
    where = namespace()
    targets = {"kubernetes": {**changes.get("targets", {"kubernetes": {}})["kubernetes"], "namespace": where}}  # type: ignore[index]
    documents = render(model(**changes | {"targets": targets}), Release("v1", DIGEST, (), reference=f"acme/digits@{DIGEST}"))
    code, said = taken(cluster, where, yaml.safe_dump_all(documents))
    assert (code, said.count("created (server dry run)"), "Warning" in said) == (0, len(KINDS), False), said


def test_a_mistake_is_refused(cluster: Cluster, namespace: Callable[[], str]) -> None:
    """The control of the tests above: an unknown field, and a pod that is not restricted."""
    where = namespace()
    rendered = cluster.run("kustomize", str(BASE)).stdout
    code, said = taken(cluster, where, rendered.replace("maxUnavailable: 0", "maxUnavailabel: 0"))
    assert code != 0, said
    assert "unknown field" in said
    _, said = taken(cluster, where, rendered.replace("- ALL", "- KILL"))
    assert "would violate PodSecurity" in said
