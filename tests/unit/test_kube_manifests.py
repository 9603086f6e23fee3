"""The overlay rendered from model.yaml, the candidate pod, quantities, and the annotated state."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import messages
from tests.errors import fails
from torchrelay.core.errors import DeployFailed
from torchrelay.model.model import Model
from torchrelay.model.origin import Origin
from torchrelay.targets import Release
from torchrelay.targets.kubernetes import state
from torchrelay.targets.kubernetes.manifests import (
    BASE,
    TEMPORARY,
    candidate,
    cpu_quantity,
    deployment_patch,
    egress_ports,
    grace_s,
    kustomize_command,
    label_value,
    overlay,
)
from torchrelay_runtime.limits import Limits
from torchrelay_runtime.nginx import buffered_bytes
from torchrelay_runtime.settings import Serving, Settings
from torchrelay_runtime.torchserve.config import body_budget

DIGEST = "sha256:" + "ab" * 32
REFERENCE = f"registry.example:5000/models/digits@{DIGEST}"


def model(**changes: Any) -> Model:
    return Model.model_validate({"name": "digits", "weights": "model.pt", "handler": "tensor"} | changes)


def release(**changes: Any) -> Release:
    return Release(**{"version": "v1", "digest": DIGEST, "samples": (), "reference": REFERENCE} | changes)


def base() -> dict[str, Any]:
    """The Deployment of k8s/base, as kustomize would label and name it."""
    deployment: dict[str, Any] = yaml.safe_load((BASE / "deployment.yaml").read_text())
    labels = {"app.kubernetes.io/name": "digits", "app.kubernetes.io/component": "server"}
    deployment["metadata"] |= {
        "name": "digits",
        "namespace": "default",
        "labels": {**labels, "app.kubernetes.io/managed-by": "torchrelay"},
    }
    deployment["spec"]["template"]["metadata"]["labels"] = labels
    return deployment


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
    documents = overlay(model(targets={"kubernetes": {"namespace": "serving", "replicas": 3}}), release(), "../base")
    top = documents["kustomization.yaml"]
    assert top["images"] == [{"name": "torchrelay/model", "newName": "registry.example:5000/models/digits", "digest": DIGEST}]
    assert (top["resources"], top["namespace"]) == (["../base"], "serving")
    assert documents["deployment.yaml"]["spec"]["replicas"] == 3


def test_model_yaml_sets_the_deployments_fields() -> None:
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
    ("changes", "of_release", "message"),
    [({"name": "3d-unet"}, {}, "must start with a letter"), ({}, {"reference": ""}, "has not been pushed")],
)
def test_an_undeployable_release_is_refused(changes: dict[str, Any], of_release: dict[str, Any], message: str) -> None:
    with pytest.raises(DeployFailed, match=message):
        overlay(model(**changes), release(**of_release), "b")


def test_the_base_has_the_overlays_default_times() -> None:
    """The times in the base are those of the overlay of a model without settings."""
    spec, patch = base()["spec"], overlay(model(), release(), "b")["deployment.yaml"]["spec"]
    for path in (("progressDeadlineSeconds",), ("template", "spec", "terminationGracePeriodSeconds")):
        base_part, overlay_part = spec, patch
        for key in path:
            base_part, overlay_part = base_part[key], overlay_part[key]
        assert base_part == overlay_part, path
    assert spec["template"]["spec"]["containers"][0]["startupProbe"]["failureThreshold"] == 75


def test_pods_run_on_the_images_platform() -> None:
    spec = base()["spec"]["template"]["spec"]
    assert spec["nodeSelector"] == {"kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"}
    assert candidate(base(), 100)["spec"]["nodeSelector"] == spec["nodeSelector"]


@pytest.mark.parametrize(("memory", "body"), [("2Gi", 6), ("512Mi", 6), ("64Gi", 1024)])
def test_the_front_cannot_fill_the_pods_temporary_files(memory: str, body: int) -> None:
    """A pod over its sizeLimit is evicted with all its requests."""
    of = model(resources={"memory": memory}, max_body_mb=body)
    (volume,) = deployment_patch(of)["spec"]["template"]["spec"]["volumes"]
    budget = body_budget(torchserve_settings(body), Limits(1.0, of.memory_bytes))
    assert int(volume["emptyDir"]["sizeLimit"]) >= buffered_bytes(budget) + TEMPORARY // 2


def test_a_model_is_cut_off_unless_it_fetches_urls() -> None:
    assert "metadata" not in deployment_patch(model())["spec"]["template"]
    fetching = model(handler="image-classifier", handler_args={"url_hosts": ["a.example", "b.example:8443"], "size": 8})
    assert deployment_patch(fetching)["spec"]["template"]["metadata"]["labels"] == {"torchrelay.org/egress": "public"}
    assert [one["port"] for one in egress_ports(fetching)] == [80, 443, 8443]
    policies = list(yaml.safe_load_all((BASE / "networkpolicy.yaml").read_text()))
    assert policies[0]["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert [rule["to"] for rule in policies[0]["spec"]["egress"]] == [[{"podSelector": {"matchLabels": {}}}]]
    (block, *_) = policies[1]["spec"]["egress"][1]["to"]
    assert "169.254.0.0/16" in block["ipBlock"]["except"], "the cloud's metadata service"


def torchserve_settings(max_body_mb: int) -> Settings:
    serving = Serving(name="m", version="1", model_dir=Path("/m"), max_body_bytes=max_body_mb << 20)
    return Settings(serving, Path("/s"), 8080, "0.0.0.0", "nginx", "torchserve", None, None, access_log=False, log_level="warn")


def test_a_candidate_is_the_same_pod_but_no_service_selects_it() -> None:
    deployment = base()
    before = copy.deepcopy(deployment)
    pod = candidate(deployment, 100)
    assert deployment == before
    assert pod["metadata"]["labels"]["app.kubernetes.io/component"] == "candidate"
    assert pod["metadata"]["name"].startswith("digits-candidate-")
    assert (pod["spec"]["restartPolicy"], pod["spec"]["activeDeadlineSeconds"]) == ("Never", 100)
    (candidate_container,), (container,) = pod["spec"]["containers"], deployment["spec"]["template"]["spec"]["containers"]
    assert {**container, "lifecycle": None} == {**candidate_container, "lifecycle": None}
    assert candidate(deployment, 100)["metadata"]["name"] != pod["metadata"]["name"]


@pytest.mark.parametrize(
    ("there", "command"), [(["kustomize", "kubectl"], ["kustomize", "build"]), (["kubectl"], ["kubectl", "kustomize"])]
)
def test_the_render_command(monkeypatch: pytest.MonkeyPatch, there: list[str], command: list[str]) -> None:
    monkeypatch.setattr("shutil.which", lambda name: f"/bin/{name}" if name in there else None)
    assert kustomize_command(Path("/x")) == [*command, "/x"]


def test_without_kustomize_or_kubectl_the_fix_is_to_install_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    with fails(DeployFailed, words=messages.NO_RENDERER):
        kustomize_command(Path("/x"))


SOURCE = Origin("github.com/acme/x", "c" * 40, "refs/heads/main", 12, "run\n::error::x", 'a"b')


def test_annotations_are_read_back() -> None:
    one = state.DeployedVersion(DIGEST, "v1", "2026-01-01", SOURCE, base()["spec"])
    two = state.DeployedVersion(DIGEST.replace("a", "c"), "v2", "2026-01-02", Origin(), base()["spec"])
    document = state.deployment(base(), two, verified=False, previous=one)
    live = state.read(document)
    assert live is not None
    assert (live.version, live.previous, live.verified) == (two, one, False)
    assert live.last_verified == one
    assert all(isinstance(value, str) for value in document["metadata"]["annotations"].values())
    settled = state.read(state.deployment(base(), two, verified=True, previous=None))
    assert settled is not None
    assert (settled.last_verified, settled.previous) == (two, None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda meta: meta["labels"].pop("app.kubernetes.io/managed-by"), "Torchrelay did not create it"),
        (lambda meta: meta["annotations"].update({"torchrelay.org/applied": "{"}), "are damaged"),
        (lambda meta: meta["annotations"].pop("torchrelay.org/since"), "are damaged"),
    ],
)
def test_a_foreign_or_damaged_deployment_is_refused(change: Any, message: str) -> None:
    version = state.DeployedVersion(DIGEST, "v1", "2026-01-01", SOURCE, base()["spec"])
    document = state.deployment(base(), version, verified=True, previous=None)
    change(document["metadata"])
    with pytest.raises(DeployFailed, match=message):
        state.read(document)


def test_a_base_applied_by_hand_can_be_restored() -> None:
    live = state.read(base())
    assert live is not None
    assert live.last_verified is not None  # it is restored when the first deploy fails
    assert (live.version.digest, live.last_verified.spec) == ("", base()["spec"])


def test_the_number_of_pods_is_left_to_an_autoscaler() -> None:
    fields: dict[str, Any] = {"fieldsV1": {"f:spec": {"f:replicas": {}}}}
    by_hand = {"metadata": {"managedFields": [{"manager": "kubectl", **fields}]}}
    by_cluster = {"metadata": {"managedFields": [{"manager": "kube-controller-manager", **fields}]}}
    assert [state.is_scaled_by_cluster(one) for one in (None, by_hand, by_cluster)] == [False, False, True]
    assert "replicas" not in state.without_replicas(base()["spec"])
