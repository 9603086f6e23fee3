"""The kubernetes target on a real cluster: deployments, refusals with their reasons, and automatic rollbacks."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.harness import ALL, Deployment, Images, poll
from tests.container.harness import NAME
from torchrelay.core.errors import ClusterRefused, DeployFailed, GateFailed, Outdated, RolledBack
from torchrelay.targets.kubernetes import waiting

PLAIN_POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "plain"},
    "spec": {"containers": [{"name": "c", "image": "i"}]},
}


@pytest.fixture(scope="module")
def live(cluster: Cluster, images: Images, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """Version one, commit number five, for all tests that leave it as it is."""
    name = f"live-{os.getpid()}"
    cluster.run("create", "namespace", name)
    cluster.run("label", "namespace", name, "pod-security.kubernetes.io/enforce=restricted")
    deployment = Deployment(cluster, images, tmp_path_factory.mktemp("live"), name)
    before, os.environ["KUBECONFIG"] = os.environ.get("KUBECONFIG", ""), str(cluster.kubeconfig)
    try:
        deployment.apply("one", sequence=5)
    except BaseException:
        deployment.show()
        raise
    finally:
        os.environ["KUBECONFIG"] = before
    yield deployment
    cluster.run("delete", "namespace", name)  # its CPU is needed


@pytest.fixture
def untouched(live: Deployment) -> Iterator[Deployment]:
    """The live deployment; afterwards its spec, its answers and the namespace must be the same."""
    before = live.get("deployment", NAME)["spec"]
    names = live.names(*ALL)
    yield live
    assert live.get("deployment", NAME)["spec"] == before
    assert live.answer() == "one"
    poll("the end of the failed deploy", lambda: live.names(*ALL) == names)
    assert live.annotations()["state"] == "verified"


def test_it_answers_and_records_its_origin(untouched: Deployment) -> None:
    reference, digest = untouched.images.of("answers_as_requested", "one")
    endpoint = untouched.target().status()
    assert (endpoint.state, endpoint.digest, endpoint.version, endpoint.previous) == ("ready", digest, "one", "")
    assert endpoint.url == f"http://{NAME}.{untouched.namespace}.svc/predictions/{NAME}"
    annotations = untouched.annotations()
    assert (annotations["digest"], annotations["sequence"], annotations["actor"]) == (digest, "5", "octocat")
    assert annotations["run"].endswith("/actions/runs/5")
    (pod,) = untouched.get("pods")["items"]
    assert pod["spec"]["containers"][0]["image"] == reference
    assert pod["metadata"]["labels"]["app.kubernetes.io/version"] == "one"
    assert "ready after" in untouched.target().logs()
    untouched.target().verify(untouched.images.release("one").samples)


def test_only_restricted_pods_are_accepted(untouched: Deployment) -> None:
    done = untouched.cluster.run(
        "--namespace", untouched.namespace, "apply", "--filename", "-", stdin=json.dumps(PLAIN_POD), check=False
    )
    assert 'violates PodSecurity "restricted' in done.stderr  # so the target's pods were checked against it
    (pod,) = untouched.get("pods")["items"]
    script = "touch /opt/x; touch /tmp/x && echo written; id -u; ls /var/run/secrets 2>&1; true"
    done = untouched.cluster.run("--namespace", untouched.namespace, "exec", pod["metadata"]["name"], "--", "sh", "-c", script)
    assert done.stdout.split()[:2] == ["written", "1000"]
    assert "Read-only file system" in done.stderr
    assert "No such file" in done.stdout  # no token of the cluster


def test_a_second_time_nothing_happens_and_a_newer_commit_is_noted(untouched: Deployment) -> None:
    pods = untouched.names("pods")
    assert untouched.target().plan(untouched.images.release("one", sequence=5)).unchanged
    again = untouched.apply("one", sequence=6)
    assert (again.skipped, again.state) == (True, "ready")
    assert untouched.names("pods") == pods
    assert untouched.annotations()["sequence"] == "6"


def test_an_older_commit_is_refused(untouched: Deployment) -> None:
    with pytest.raises(Outdated, match=r"refusing to deploy .* \(#4\)"):
        untouched.apply("two", sequence=4)


def test_wrong_answers_are_refused_before_any_traffic(untouched: Deployment) -> None:
    with pytest.raises(GateFailed, match=r"hello: .*version"):
        untouched.apply("two", expected="three")


def test_a_version_that_cannot_load_is_refused_with_its_traceback(untouched: Deployment) -> None:
    with pytest.raises(GateFailed, match=r"does not load: .*(?s:.*)Traceback"):
        untouched.apply("two", "fails_to_load")


def test_an_image_that_cannot_be_pulled_is_refused(untouched: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "TROUBLE_S", 2.0)
    release = untouched.images.release("two")
    missing = replace(release, reference=release.reference[:-8] + "00000000")
    with pytest.raises(DeployFailed, match="cannot be pulled") as refused:
        untouched.target().apply(missing)
    assert "push the image again" in refused.value.fix


def test_a_pod_that_no_node_accepts_is_refused(untouched: Deployment) -> None:
    with pytest.raises(DeployFailed, match="Insufficient cpu") as refused:
        untouched.target(place_s=3, cpu=64).apply(untouched.images.release("two"))
    assert "resources.cpu" in refused.value.fix


def test_a_quota_is_reported(untouched: Deployment) -> None:
    untouched.kubectl("create", "quota", "few", "--hard=pods=1")
    try:
        poll("the quota's count", lambda: untouched.get("quota", "few").get("status", {}).get("used", {}).get("pods") == "1")
        with pytest.raises(DeployFailed, match="exceeded quota") as refused:
            untouched.apply("two")
        assert "ResourceQuota" in refused.value.fix
    finally:
        untouched.kubectl("delete", "quota", "few")


def test_what_fails_behind_the_service_is_rolled_back(live: Deployment) -> None:
    before = live.get("deployment", NAME)["spec"]
    with pytest.raises(RolledBack, match=r"behind the Service: hello: .*something else.*one answers again"):
        live.apply("two", "right_only_as_candidate")
    assert live.get("deployment", NAME)["spec"] == before
    assert (live.answer(), live.annotations()["state"], live.annotations()["version"]) == ("one", "verified", "one")
    assert (live.target().status().state, live.target().status().previous) == ("ready", "")


def test_a_change_by_hand_is_not_overwritten_silently(live: Deployment) -> None:
    change = [{"op": "replace", "path": "/spec/ports/0/targetPort", "value": 8081}]
    live.kubectl("patch", "service", NAME, "--type=json", "--patch", json.dumps(change))
    with pytest.raises(ClusterRefused, match=r"spec.ports.* belongs to kubectl-patch") as refused:
        live.apply("two")
    assert "TORCHRELAY_FORCE_CONFLICTS" in refused.value.fix
    change[0]["value"] = "http"
    live.kubectl("patch", "service", NAME, "--type=json", "--patch", json.dumps(change))


def test_missing_permissions_are_reported(live: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    config = live.kubeconfig_of("nobody")
    try:
        monkeypatch.setenv("TORCHRELAY_KUBECONFIG", config)
        with pytest.raises(ClusterRefused, match="is not allowed to get leases") as refused:
            live.apply("two")
        assert '- {apiGroups: ["coordination.k8s.io"], resources: ["leases"], verbs: ["get"]}' in refused.value.fix
    finally:
        live.kubectl("delete", "serviceaccount", "nobody")


def test_a_missing_namespace_and_an_unreachable_api_are_reported(
    cluster: Cluster, images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = Deployment(cluster, images, tmp_path, "nowhere")
    with pytest.raises(ClusterRefused, match="no namespace 'nowhere'"):
        nowhere.apply("one")
    config = json.loads(cluster.run("config", "view", "--raw", "--output", "json").stdout)
    config["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:1"
    monkeypatch.setenv("TORCHRELAY_KUBECONFIG", json.dumps(config))
    monkeypatch.setattr("torchrelay.targets.kubernetes.api.RETRY_S", 1.0)
    with pytest.raises(ClusterRefused, match=r"127\.0\.0\.1:1 is unreachable"):
        nowhere.apply("one")
