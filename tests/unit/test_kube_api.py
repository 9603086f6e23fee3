"""The client of a cluster: credentials that expire, a handshake that is never answered, a log that may not be read."""

from __future__ import annotations

import json
import math
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from torchrelay.core.errors import ClusterRefused
from torchrelay.model.model import Kubernetes
from torchrelay.targets.kubernetes import api as kube_api
from torchrelay.targets.kubernetes import exec
from torchrelay.targets.kubernetes.api import Api

MAY_NOT = 'pods "p" is forbidden: User "ci" cannot get resource "pods/log" in API group "" in the namespace "ns"'


class Made:
    """Stands in for what makes clients: gives another one each time."""

    def __init__(self) -> None:
        self.clients: list[Any] = []

    def __call__(self) -> Any:
        self.clients.append(SimpleNamespace(configuration=SimpleNamespace(host=f"https://{len(self.clients)}")))
        return self.clients[-1]


@pytest.mark.parametrize(("lasts_s", "made"), [(10.0, 2), (math.inf, 1)])
def test_credentials_are_made_anew_before_the_cluster_refuses_them(
    monkeypatch: pytest.MonkeyPatch, lasts_s: float, made: int
) -> None:
    clock, make = SimpleNamespace(now=0.0), Made()
    monkeypatch.setattr(kube_api, "time", SimpleNamespace(monotonic=lambda: clock.now))
    api = Api(make, "ns", lasts_s)
    clock.now = 10.0
    assert (api.server, len(make.clients)) == ("https://0", 1)
    clock.now = 11.0
    assert (api.server, api.client) == (f"https://{made - 1}", make.clients[made - 1])
    assert len(make.clients) == made


def test_only_the_credentials_of_eks_are_known_to_expire(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kube_api, "_client", lambda _: None)
    arn = "arn:aws:eks:eu-west-1:123456789012:cluster/c"
    assert kube_api.connect(Kubernetes(cluster=arn)).lasts_s == 14 * 60
    assert kube_api.connect(Kubernetes()).lasts_s == math.inf


@pytest.mark.parametrize(("answers", "clients"), [([401, 200], 2), ([401, 401], 2), ([403], 1), ([200], 1)])
def test_expired_credentials_are_made_anew_once_for_a_command(
    monkeypatch: pytest.MonkeyPatch, answers: list[int], clients: int
) -> None:
    from kubernetes.client import ApiException

    left = list(answers)

    def connect(*_: Any) -> str:
        if (status := left.pop(0)) != 200:
            raise ApiException(status=0, reason=f"Handshake status {status} -+-+- {{}}")
        return "session"

    monkeypatch.setattr(exec, "_connect", connect)
    make = Made()
    api = Api(make, "ns")
    if answers[-1] == 200:
        assert exec._opened(api, "p", ["python", "probe.py"], False) == "session"
    else:
        with pytest.raises(ClusterRefused):
            exec._opened(api, "p", ["python", "probe.py"], False)
    assert (left, len(make.clients)) == ([], clients)


def test_a_handshake_that_is_never_answered_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    never = threading.Event()
    monkeypatch.setattr(exec, "CONNECT_S", 0.05)
    monkeypatch.setattr(exec, "_connect", lambda *_: never.wait(30))
    try:
        with pytest.raises(ClusterRefused, match=r"run probe.py: no answer within 0.05 s"):
            exec._opened(Api(Made(), "ns"), "p", ["python", "probe.py"], False)
    finally:
        never.set()


@pytest.mark.parametrize(("status", "told"), [(403, "ci may not get pods/log"), (400, "")])
def test_a_log_that_may_not_be_read_is_told(monkeypatch: pytest.MonkeyPatch, status: int, told: str) -> None:
    from kubernetes.client import ApiException, CoreV1Api

    def refuse(*_: Any, **__: Any) -> None:
        error = ApiException(status=status, reason="Forbidden")
        error.body = json.dumps({"kind": "Status", "message": MAY_NOT if status == 403 else "container is waiting to start"})
        raise error

    monkeypatch.setattr(CoreV1Api, "__init__", lambda *_: None)
    monkeypatch.setattr(CoreV1Api, "read_namespaced_pod_log", refuse)
    api = Api(Made(), "ns")
    if told:
        with pytest.raises(ClusterRefused, match=told):
            api.log("p", "server")
        assert 'resources: ["pods/log"], verbs: ["get"]' in api.log_or_why("p", "server")
    assert told in api.log_or_why("p", "server")
    assert bool(told) is bool(api.log_or_why("p", "server"))


def test_the_client_below_tries_nothing_again_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four tries of three seconds each would outlast the Lease that one of them was to renew."""
    config = {
        "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": "https://api.example"}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
    }
    monkeypatch.setenv("TORCHRELAY_KUBECONFIG", json.dumps(config))
    made = kube_api.connect(Kubernetes())
    assert (made.server, made.configuration.retries) == ("https://api.example", 0)
