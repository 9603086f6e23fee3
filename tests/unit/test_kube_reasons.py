"""The reasons why pods do not run and what the API refuses, from a real API's messages."""

from __future__ import annotations

import json
from typing import Any

import pytest

from torchrelay.core.errors import ClusterRefused, DeployFailed, GateFailed
from torchrelay.targets.kubernetes.api_errors import conflict, forbidden, is_transient, refusal
from torchrelay.targets.kubernetes.lock import LeaseWatch
from torchrelay.targets.kubernetes.pod_trouble import Trouble, refused_pods, state_of, trouble_of
from torchrelay.targets.kubernetes.waiting import TROUBLE_S, Patience, RolloutProgress, is_complete


def pod(state: dict[str, Any] | None = None, **status: Any) -> dict[str, Any]:
    container = {"name": "server", "state": state or {}, "restartCount": status.pop("restarts", 0)}
    container["lastState"] = status.pop("last", {})
    metadata, spec = {"name": "digits-1", "namespace": "ns"}, {"serviceAccountName": "digits"}
    return {"metadata": metadata, "spec": spec, "status": {"containerStatuses": [container], **status}}


def waiting(reason: str, message: str = "") -> dict[str, Any]:
    return {"waiting": {"reason": reason, "message": message}}


UNSCHEDULABLE = "0/1 nodes are available: 1 Insufficient cpu, 1 Insufficient memory."
OOM = {"terminated": {"reason": "OOMKilled", "exitCode": 137}}


@pytest.mark.parametrize(
    ("seen", "what", "fix", "certain", "gate"),
    [
        (
            pod(waiting("ErrImagePull", "rpc error: x: not found")),
            "cannot be pulled: rpc error",
            "push the image again",
            True,
            False,
        ),
        (
            pod(waiting("ImagePullBackOff", "Back-off: 401 Unauthorized")),
            "cannot be pulled",
            "create ServiceAccount digits with imagePullSecrets",
            True,
            False,
        ),
        (pod(waiting("InvalidImageName")), "cannot be pulled: InvalidImageName", "nodes reach", True, False),
        (pod(waiting("CreateContainerConfigError", "no secret")), "no secret", "describe pod digits-1", True, False),
        (pod(waiting("CrashLoopBackOff"), last={"terminated": {"exitCode": 3}}), "ended with code 3 again", "", True, True),
        (pod({"running": {}}, restarts=2, last=OOM), "was killed for memory again", "resources.memory", True, True),
        (pod({"terminated": {"exitCode": 1}}, phase="Failed"), "ended with code 1 before", "", True, True),
        (pod(phase="Failed", reason="Evicted", message="low on disk"), "Evicted low on disk", "describe", True, False),
        (
            pod(conditions=[{"type": "PodScheduled", "status": "False", "message": UNSCHEDULABLE}]),
            "no node accepts the pod: 0/1",
            "resources.cpu and resources.memory",
            False,
            False,
        ),
    ],
)
def test_why_a_pod_does_not_run(seen: dict[str, Any], what: str, fix: str, certain: bool, gate: bool) -> None:
    trouble = trouble_of(seen)
    assert trouble is not None
    assert what in trouble.what
    assert fix in trouble.fix
    assert (trouble.certain, trouble.gate) == (certain, gate)
    assert isinstance(trouble.error(), GateFailed if gate else DeployFailed)


@pytest.mark.parametrize("seen", [pod(), pod({"running": {}}), pod(waiting("ContainerCreating")), pod({"running": {}}, restarts=1)])
def test_a_starting_or_running_pod_has_no_trouble(seen: dict[str, Any]) -> None:
    assert trouble_of(seen) is None


def test_pods_that_admission_refuses_are_named() -> None:
    message = 'pods "digits-1" is forbidden: exceeded quota: few, requested: pods=1, used: pods=1, limited: pods=1'
    failure = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": message}
    trouble = refused_pods({"status": {"conditions": [failure]}})
    assert trouble is not None
    assert "exceeded quota: few" in trouble.what
    assert "ResourceQuota" in trouble.fix
    assert refused_pods({"status": {}}) is None


def test_the_state_of_pods_in_a_line() -> None:
    ready = pod({"running": {}}, conditions=[{"type": "Ready", "status": "True"}])
    assert state_of([ready, pod({"running": {}}), pod(waiting("ErrImagePull")), pod(phase="Pending")]) == (
        "digits-1 ready, digits-1 running, not ready, digits-1 ErrImagePull, digits-1 Pending"
    )
    assert state_of([]) == "there are no pods"


def test_trouble_that_may_pass_is_given_a_moment() -> None:
    pull, ended = Trouble("no image", "", True, False), Trouble("ended", "", True, True)
    patience = Patience()
    assert not patience.spent(0.0, pull)
    assert not patience.spent(TROUBLE_S, pull)
    assert patience.spent(TROUBLE_S + 1, pull)
    assert not patience.spent(TROUBLE_S + 2, None)  # it passed
    assert not patience.spent(TROUBLE_S + 3, pull)
    assert patience.spent(TROUBLE_S + 3, ended)
    assert not Patience().spent(1e9, Trouble("no node", "", False, False))


def test_a_rollout_has_no_time_limit_while_pods_change() -> None:
    progress = RolloutProgress(0.0)
    assert not progress.stuck(50.0, {"status": {"updatedReplicas": 1}}, 60.0)
    assert not progress.stuck(100.0, {"status": {"updatedReplicas": 2}}, 60.0)
    assert not progress.stuck(160.0, {"status": {"updatedReplicas": 2}}, 60.0)
    assert progress.stuck(161.0, {"status": {"updatedReplicas": 2}}, 60.0)


@pytest.mark.parametrize(
    ("status", "complete"),
    [
        ({"observedGeneration": 2, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 2}, True),
        ({"observedGeneration": 1, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 2}, False),
        ({"observedGeneration": 2, "replicas": 3, "updatedReplicas": 2, "availableReplicas": 3}, False),
        ({"observedGeneration": 2, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 1}, False),
        ({"observedGeneration": 2, "replicas": 1, "updatedReplicas": 1, "availableReplicas": 1}, False),
        ({}, False),
    ],
)
def test_when_a_rollout_is_complete(status: dict[str, int], complete: bool) -> None:
    assert is_complete({"metadata": {"generation": 2}, "spec": {"replicas": 2}, "status": status}) is complete


class Refused(Exception):
    """A fake of the client's ApiException: a status, and the API's reply as its body."""

    def __init__(self, status: int, message: str = "", **more: Any) -> None:
        super().__init__(message)
        self.status = status
        self.reason = "reason"
        self.body = json.dumps({"kind": "Status", "message": message, **more}) if message else None


FORBIDDEN = (
    'leases.coordination.k8s.io "torchrelay-digits" is forbidden: User "system:serviceaccount:ns:ci" cannot get resource "leases" '
    'in API group "coordination.k8s.io" in the namespace "ns"'
)
CAUSES = {
    "causes": [{"reason": "FieldManagerConflict", "field": ".spec.replicas", "message": 'conflict with "kubectl" using apps/v1'}]
}


@pytest.mark.parametrize(
    ("error", "kind", "what", "fix"),
    [
        (Refused(403, FORBIDDEN), ClusterRefused, "ci is not allowed to get leases", 'resources: ["leases"], verbs: ["get"]'),
        (Refused(403, 'pods "x" is forbidden: exceeded quota: few'), DeployFailed, "exceeded quota", "ResourceQuota"),
        (
            Refused(403, 'pods "x" is forbidden: violates PodSecurity "restricted:latest"'),
            DeployFailed,
            "violates",
            "restricted level",
        ),
        (Refused(403, 'pods "x" is forbidden: maximum cpu usage per Container is 1'), DeployFailed, "per Container", "LimitRange"),
        (Refused(404, 'namespaces "ns" not found'), ClusterRefused, "no namespace 'ns'", "kubectl create namespace ns"),
        (Refused(401, "Unauthorized"), ClusterRefused, "does not know these credentials", "log in again"),
        (Refused(409, "Apply failed", details=CAUSES), ClusterRefused, ".spec.replicas belongs to kubectl", "FORCE_CONFLICTS=1"),
        (Refused(409, "the object has been modified"), ClusterRefused, "the object has been modified", "run it again"),
        (Refused(422, 'Deployment.apps "x" is invalid'), DeployFailed, "is invalid", "model.yaml"),
        (Refused(0), ClusterRefused, "https://api is unreachable", "kubectl version"),
        (Refused(503, "etcd leader changed"), ClusterRefused, "answers 503: etcd leader changed", "run it again"),
    ],
)
def test_the_apis_refusals(error: Refused, kind: type[Exception], what: str, fix: str) -> None:
    error_raised = refusal(error, "Deployment", "digits", "ns", "https://api")
    assert isinstance(error_raised, kind)
    assert what in error_raised.message
    assert fix in error_raised.fix


def test_a_missing_object_is_not_a_refusal() -> None:
    assert refusal(Refused(404, 'deployments.apps "digits" not found'), "Deployment", "digits", "ns", "https://api") is None


def test_transient_failures() -> None:
    assert [is_transient(Refused(status)) for status in (0, 429, 500, 503, 400, 401, 403, 404, 409)] == [True] * 4 + [False] * 5
    assert not is_transient(OSError("certificate verify failed"))


def test_refusals_contain_the_clusters_message() -> None:
    assert "webhook says no" in forbidden('admission webhook "x" denied the request: webhook says no', "ns").message
    assert conflict({}, "Deployment x", "no").message == "Deployment x: no"


def test_a_lease_is_stale_when_it_is_not_renewed_for_its_duration() -> None:
    def lease(holder: str, renewed: str) -> dict[str, Any]:
        return {"spec": {"holderIdentity": holder, "renewTime": renewed, "leaseDurationSeconds": 15}}

    watch = LeaseWatch()
    assert not watch.is_stale(0.0, lease("a", "1"))
    assert not watch.is_stale(15.0, lease("a", "1"))
    assert not watch.is_stale(16.0, lease("a", "2"))  # renewed: its time restarts, whatever its clock says
    assert not watch.is_stale(20.0, lease("b", "2"))
    assert watch.is_stale(36.0, lease("b", "2"))
    assert LeaseWatch().is_stale(0.0, lease("", "1"))
