"""The overlay that model.yaml becomes, the candidate pod, and the amounts as Kubernetes writes them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from torchrelay.core.errors import DeployFailed
from torchrelay.model.model import Model
from torchrelay.model.origin import Origin
from torchrelay.targets import Release
from torchrelay.targets.kubernetes import state
from torchrelay.targets.kubernetes.manifests import BASE, candidate, cpu_quantity, grace_s, kustomize_command, label_value, overlay

DIGEST = "sha256:" + "ab" * 32
REFERENCE = f"registry.example:5000/models/digits@{DIGEST}"


def model(**changes: Any) -> Model:
    return Model.model_validate({"name": "digits", "weights": "model.pt", "handler": "tensor"} | changes)


def release(**changes: Any) -> Release:
    return Release(**{"version": "v1", "digest": DIGEST, "samples": (), "reference": REFERENCE} | changes)


def base() -> dict[str, Any]:
    """The Deployment of k8s/base, as kustomize would label and name it."""
    found: dict[str, Any] = yaml.safe_load((BASE / "deployment.yaml").read_text())
    labels = {"app.kubernetes.io/name": "digits", "app.kubernetes.io/component": "server"}
    found["metadata"] |= {
        "name": "digits",
        "namespace": "default",
        "labels": {**labels, "app.kubernetes.io/managed-by": "torchrelay"},
    }
    found["spec"]["template"]["metadata"]["labels"] = labels
    return found


@pytest.mark.parametrize(
    ("cores", "written"), [(1, "1"), (2.0, "2"), (0.5, "500m"), (1.25, "1250m"), (0.1, "100m"), (0.0001, "1m"), (0.3, "300m")]
)
def test_cores_as_kubernetes_writes_them(cores: float, written: str) -> None:
    assert cpu_quantity(cores) == written


@pytest.mark.parametrize(
    ("text", "label"),
    [("1.0", "1.0"), ("_private.", "private"), ("a" * 64, "a" * 63), ("1.2+dirty", "1.2-dirty"), ("---", "unknown"), ("é$x", "x")],
)
def test_any_version_becomes_a_legal_label(text: str, label: str) -> None:
    assert label_value(text) == label


def test_the_overlay_names_the_image_by_its_digest() -> None:
    told = overlay(model(targets={"kubernetes": {"namespace": "serving", "replicas": 3}}), release(), "../base")
    top = told["kustomization.yaml"]
    assert top["images"] == [{"name": "torchrelay/model", "newName": "registry.example:5000/models/digits", "digest": DIGEST}]
    assert (top["resources"], top["namespace"]) == (["../base"], "serving")
    assert told["deployment.yaml"]["spec"]["replicas"] == 3


def test_what_model_yaml_says_goes_into_the_deployment() -> None:
    described = model(
        device="gpu",
        resources={"cpu": 0.5, "memory": "1.5Gi"},
        timeouts={"startup_s": 300, "drain_s": 7},
    )
    spec = overlay(described, release(), "b")["deployment.yaml"]["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    amounts = {"cpu": "500m", "memory": "1.5Gi", "nvidia.com/gpu": "1"}
    assert container["resources"] == {"requests": amounts, "limits": amounts}
    probe = container["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] >= 300 + 30
    assert spec["template"]["spec"]["terminationGracePeriodSeconds"] == grace_s(described) == 5 + 7 + 10
    assert spec["progressDeadlineSeconds"] > 300 + 30
    assert spec["template"]["spec"]["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    assert "tolerations" not in overlay(model(), release(), "b")["deployment.yaml"]["spec"]["template"]["spec"]


@pytest.mark.parametrize(
    ("changes", "of_release", "told"),
    [({"name": "3d-unet"}, {}, "begins with a letter"), ({}, {"reference": ""}, "has not been pushed")],
)
def test_what_no_cluster_takes_is_refused(changes: dict[str, Any], of_release: dict[str, Any], told: str) -> None:
    with pytest.raises(DeployFailed, match=told):
        overlay(model(**changes), release(**of_release), "b")


def test_the_base_waits_as_long_as_the_overlay_says() -> None:
    """What the base's comments reckon for a model without settings is what the overlay reckons."""
    spec, patch = base()["spec"], overlay(model(), release(), "b")["deployment.yaml"]["spec"]
    for path in (("progressDeadlineSeconds",), ("template", "spec", "terminationGracePeriodSeconds")):
        ours, theirs = spec, patch
        for key in path:
            ours, theirs = ours[key], theirs[key]
        assert ours == theirs, path
    assert spec["template"]["spec"]["containers"][0]["startupProbe"]["failureThreshold"] == 75


def test_pods_go_where_the_image_runs_and_take_the_uploads_that_the_server_takes() -> None:
    spec = base()["spec"]["template"]["spec"]
    assert spec["nodeSelector"] == {"kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"}
    assert [volume for volume in spec["volumes"] if "sizeLimit" in (volume["emptyDir"] or {})] == []
    assert candidate(base(), 100)["spec"]["nodeSelector"] == spec["nodeSelector"]


def test_a_candidate_is_the_same_pod_that_nothing_selects() -> None:
    deployment = base()
    before = copy.deepcopy(deployment)
    pod = candidate(deployment, 100)
    assert deployment == before
    assert pod["metadata"]["labels"]["app.kubernetes.io/component"] == "candidate"
    assert pod["metadata"]["name"].startswith("digits-candidate-")
    assert (pod["spec"]["restartPolicy"], pod["spec"]["activeDeadlineSeconds"]) == ("Never", 100)
    (ours,), (theirs,) = pod["spec"]["containers"], deployment["spec"]["template"]["spec"]["containers"]
    assert {**theirs, "lifecycle": None} == {**ours, "lifecycle": None}
    assert candidate(deployment, 100)["metadata"]["name"] != pod["metadata"]["name"]


@pytest.mark.parametrize(
    ("there", "command"), [(["kustomize", "kubectl"], ["kustomize", "build"]), (["kubectl"], ["kubectl", "kustomize"])]
)
def test_what_renders(monkeypatch: pytest.MonkeyPatch, there: list[str], command: list[str]) -> None:
    monkeypatch.setattr("shutil.which", lambda name: f"/bin/{name}" if name in there else None)
    assert kustomize_command(Path("/x")) == [*command, "/x"]


def test_without_a_renderer_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    with pytest.raises(DeployFailed, match="neither kustomize nor kubectl"):
        kustomize_command(Path("/x"))


SOURCE = Origin("github.com/acme/x", "c" * 40, "refs/heads/main", 12, "run\n::error::x", 'a"b')


def test_what_is_annotated_is_read_again() -> None:
    one = state.Version(DIGEST, "v1", "2026-01-01", SOURCE, base()["spec"])
    two = state.Version(DIGEST.replace("a", "c"), "v2", "2026-01-02", Origin(), base()["spec"])
    document = state.deployment(base(), two, proved=False, previous=one)
    live = state.read(document)
    assert live is not None
    assert (live.version, live.previous, live.proved) == (two, one, False)
    assert live.good == one
    assert all(isinstance(value, str) for value in document["metadata"]["annotations"].values())
    settled = state.read(state.deployment(base(), two, proved=True, previous=None))
    assert settled is not None
    assert (settled.good, settled.previous) == (two, None)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda meta: meta["labels"].pop("app.kubernetes.io/managed-by"), "not of Torchrelay's making"),
        (lambda meta: meta["annotations"].update({"torchrelay.org/applied": "{"}), "are damaged"),
        (lambda meta: meta["annotations"].pop("torchrelay.org/since"), "are damaged"),
    ],
)
def test_what_is_not_ours_or_damaged_is_not_touched(change: Any, told: str) -> None:
    version = state.Version(DIGEST, "v1", "2026-01-01", SOURCE, base()["spec"])
    document = state.deployment(base(), version, proved=True, previous=None)
    change(document["metadata"])
    with pytest.raises(DeployFailed, match=told):
        state.read(document)


def test_the_base_applied_by_hand_is_taken_over() -> None:
    live = state.read(base())
    assert live is not None
    assert live.good is not None  # it is gone back to when the first deploy fails
    assert (live.version.digest, live.good.spec) == ("", base()["spec"])


def test_the_number_of_pods_is_left_to_an_autoscaler() -> None:
    fields: dict[str, Any] = {"fieldsV1": {"f:spec": {"f:replicas": {}}}}
    by_hand = {"metadata": {"managedFields": [{"manager": "kubectl", **fields}]}}
    by_cluster = {"metadata": {"managedFields": [{"manager": "kube-controller-manager", **fields}]}}
    assert [state.is_scaled_by_cluster(one) for one in (None, by_hand, by_cluster)] == [False, False, True]
    assert "replicas" not in state.without_replicas(base()["spec"])
