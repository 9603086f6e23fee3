"""The client of a cluster: credentials that expire, calls that are repeated, a handshake without a reply, a forbidden log."""

from __future__ import annotations

import json
import math
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from kubernetes.client import ApiClient, ApiException, Configuration, CoreV1Api

from torchrelay.core.errors import ClusterRefused, DeployFailed, GateFailed
from torchrelay.model.targets import Kubernetes
from torchrelay.targets.kubernetes import api as kube_api
from torchrelay.targets.kubernetes import eks
from torchrelay.targets.kubernetes.api import Api, connect
from torchrelay.targets.kubernetes.exec import open_session

FORBIDDEN = 'pods "p" is forbidden: User "ci" cannot get resource "pods/log" in API group "" in the namespace "ns"'
ARN = "arn:aws:eks:eu-west-1:123456789012:cluster/c"


class Clients:
    """Returns another client each time, and keeps them all."""

    def __init__(self) -> None:
        self.clients: list[ApiClient] = []

    def __call__(self) -> ApiClient:
        self.clients.append(ApiClient(Configuration(host=f"https://{len(self.clients)}")))
        return self.clients[-1]


@pytest.mark.parametrize(("lasts_s", "count"), [(10.0, 2), (math.inf, 1)])
def test_credentials_are_renewed_before_the_cluster_refuses_them(
    monkeypatch: pytest.MonkeyPatch, lasts_s: float, count: int
) -> None:
    clock, clients = SimpleNamespace(now=0.0), Clients()
    monkeypatch.setattr(kube_api, "time", SimpleNamespace(monotonic=lambda: clock.now))
    api = Api(clients, "ns", lasts_s)
    clock.now = 10.0
    assert (api.server, len(clients.clients)) == ("https://0", 1)
    clock.now = 11.0
    assert (api.server, api.client) == (f"https://{count - 1}", clients.clients[count - 1])
    assert len(clients.clients) == count


def test_only_the_credentials_of_eks_are_known_to_expire(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = json.dumps(kubeconfig("https://api.example"))
    (tmp_path / "config").write_text(config)
    monkeypatch.setenv("TORCHRELAY_KUBECONFIG", str(tmp_path / "config"))
    monkeypatch.setattr(eks, "kubeconfig", lambda _: kubeconfig("https://eks.example"))
    assert (connect(Kubernetes(cluster=ARN)).lasts_s, connect(Kubernetes(cluster=ARN)).server) == (14 * 60, "https://eks.example")
    assert (connect(Kubernetes()).lasts_s, connect(Kubernetes()).server) == (math.inf, "https://api.example")


def kubeconfig(server: str) -> dict[str, Any]:
    return {
        "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": server}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
    }


class Replies:
    """A fake of the client's `read_namespaced_pod`: replies with these statuses, 200 with an object."""

    def __init__(self, *statuses: int, headers: dict[str, str] | None = None) -> None:
        self.statuses = list(statuses)
        self.headers = headers

    def __call__(self, *_: Any, **__: Any) -> Any:
        status = self.statuses.pop(0)
        if status == 200:
            return SimpleNamespace(data=b'{"kind": "Pod"}')
        error = ApiException(status=status, reason="no")
        error.headers = self.headers  # type: ignore[assignment] # the stubs leave out that it is None at first
        raise error


@pytest.mark.parametrize(
    ("statuses", "left", "clients"),
    [((200,), 0, 1), ((401, 200), 0, 2), ((503, 500, 429, 200), 0, 1), ((401, 503, 200), 0, 2)],
)
def test_transient_failures_are_repeated_and_credentials_renewed_once(
    monkeypatch: pytest.MonkeyPatch, statuses: tuple[int, ...], left: int, clients: int
) -> None:
    replies, factory = Replies(*statuses, headers={"Retry-After": "0"}), Clients()
    monkeypatch.setattr(CoreV1Api, "read_namespaced_pod", replies)
    assert Api(factory, "ns").get("Pod", "p") == {"kind": "Pod"}
    assert (len(replies.statuses), len(factory.clients)) == (left, clients)


@pytest.mark.parametrize(
    ("statuses", "quick", "left"), [((401, 401, 200), False, 1), ((403, 200), False, 1), ((503, 200), True, 1)]
)
def test_other_failures_are_raised_at_once(
    monkeypatch: pytest.MonkeyPatch, statuses: tuple[int, ...], quick: bool, left: int
) -> None:
    """The last one: a quick call must not outlast the Lease that it renews."""
    replies = Replies(*statuses, headers={"Retry-After": "0"})
    monkeypatch.setattr(CoreV1Api, "read_namespaced_pod", replies)
    with pytest.raises((ClusterRefused, DeployFailed)):
        Api(Clients(), "ns").get("Pod", "p", quick=quick)
    assert len(replies.statuses) == left


@pytest.mark.parametrize(
    ("statuses", "clients", "error"),
    [([401, 200], 2, None), ([401, 401], 2, ClusterRefused), ([403], 1, ClusterRefused), ([404], 1, GateFailed), ([200], 1, None)],
)
def test_expired_credentials_are_renewed_once_for_a_command(
    statuses: list[int], clients: int, error: type[Exception] | None
) -> None:
    left, factory = list(statuses), Clients()

    def stream(*_: Any, **__: Any) -> str:
        if (status := left.pop(0)) != 200:
            raise ApiException(status=0, reason=f"Handshake status {status} -+-+- {{}}")
        return "session"

    api = Api(factory, "ns")
    if error is None:
        assert open_session(api, "p", ["python", "probe.py"], stdin=False, open_stream=stream) == "session"
    else:
        with pytest.raises(error):
            open_session(api, "p", ["python", "probe.py"], stdin=False, open_stream=stream)
    assert (left, len(factory.clients)) == ([], clients)


def test_a_handshake_without_a_reply_ends() -> None:
    never = threading.Event()

    def stream(*_: Any, **__: Any) -> None:
        never.wait(30)

    try:
        with pytest.raises(ClusterRefused, match=r"run probe.py: no answer within 0.05 s"):
            open_session(Api(Clients(), "ns"), "p", ["python", "probe.py"], stdin=False, open_stream=stream, limit_s=0.05)
    finally:
        never.set()


@pytest.mark.parametrize(("status", "message"), [(403, "ci is not allowed to get pods/log"), (400, "")])
def test_a_forbidden_log_is_reported(monkeypatch: pytest.MonkeyPatch, status: int, message: str) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        error = ApiException(status=status, reason="Forbidden")
        error.body = json.dumps({"kind": "Status", "message": FORBIDDEN if status == 403 else "container is waiting to start"})
        raise error

    monkeypatch.setattr(CoreV1Api, "read_namespaced_pod_log", refuse)
    api = Api(Clients(), "ns")
    if message:
        with pytest.raises(ClusterRefused, match=message):
            api.log("p")
        assert 'resources: ["pods/log"], verbs: ["get"]' in api.log_or_reason("p")
    assert message in api.log_or_reason("p")
    assert bool(message) is bool(api.log_or_reason("p"))


def test_the_kubernetes_client_does_not_retry_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four attempts of three seconds each would outlast the Lease that one of them renews."""
    monkeypatch.setenv("TORCHRELAY_KUBECONFIG", json.dumps(kubeconfig("https://api.example")))
    api = connect(Kubernetes())
    assert (api.server, api.configuration.retries) == ("https://api.example", 0)
