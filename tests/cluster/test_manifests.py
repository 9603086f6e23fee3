"""A real API server validates k8s/base and rendered overlays, strictly and under restricted Pod Security."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import yaml

from tests.cluster.cluster import Cluster
from torchrelay.model.model import Model
from torchrelay.targets import Release
from torchrelay.targets.kubernetes.manifests import BASE, render

DIGEST = "sha256:" + "a" * 64
KINDS = {"ServiceAccount", "Service", "Deployment", "NetworkPolicy", "PodDisruptionBudget"}
OBJECTS = len(KINDS) + 1  # two NetworkPolicies


def model(**changes: object) -> Model:
    return Model.model_validate({"name": "digits", "weights": "model.pt", "handler": "tensor"} | changes)


def validated(cluster: Cluster, namespace: str, text: str) -> tuple[int, str]:
    """Let the API server validate manifests strictly; return the exit code and the output with warnings."""
    command = ["--namespace", namespace, "apply", "--dry-run=server", "--validate=strict", "--filename", "-"]
    done = cluster.run(*command, stdin=text, check=False)
    return done.returncode, done.stdout + done.stderr


def test_the_base_is_complete_and_valid_alone(cluster: Cluster, namespace: Callable[[], str]) -> None:
    rendered = cluster.run("kustomize", str(BASE)).stdout
    assert {document["kind"] for document in yaml.safe_load_all(rendered)} == KINDS
    code, output = validated(cluster, namespace(), rendered)
    assert (code, output.count("created (server dry run)"), "Warning" in output) == (0, OBJECTS, False), output


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"handler": "image-classifier", "handler_args": {"url_hosts": ["a.example", "b.example:8443"], "size": 8}},
        {"device": "gpu", "resources": {"cpu": 0.5, "memory": "1.5G"}},
        {"targets": {"kubernetes": {"replicas": 3}}},
    ],
    ids=["as it comes", "fetches URLs", "gpu", "replicas"],
)
def test_rendered_manifests_are_valid(cluster: Cluster, namespace: Callable[[], str], changes: dict[str, object]) -> None:
    where = namespace()
    targets = {"kubernetes": {**changes.get("targets", {"kubernetes": {}})["kubernetes"], "namespace": where}}  # type: ignore[index] # JSON's type is not known
    documents = render(model(**changes | {"targets": targets}), Release("v1", DIGEST, (), reference=f"acme/digits@{DIGEST}"))
    code, output = validated(cluster, where, yaml.safe_dump_all(documents))
    assert (code, output.count("created (server dry run)"), "Warning" in output) == (0, OBJECTS, False), output


def test_a_mistake_is_refused(cluster: Cluster, namespace: Callable[[], str]) -> None:
    """The control of the tests above: an unknown field, and a pod that is not restricted."""
    where = namespace()
    rendered = cluster.run("kustomize", str(BASE)).stdout
    code, output = validated(cluster, where, rendered.replace("maxUnavailable: 0", "maxUnavailabel: 0"))
    assert code != 0, output
    assert "unknown field" in output
    _, output = validated(cluster, where, rendered.replace("- ALL", "- KILL"))
    assert "would violate PodSecurity" in output
