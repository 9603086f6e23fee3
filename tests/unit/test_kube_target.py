"""What the kubernetes target leaves in a cluster when it fails, loses its lock or is killed, and with an autoscaler."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.errors import fails
from tests.unit.kube_cluster import ONLY_AS_CANDIDATE, Document, FakeCluster, Killed
from torchrelay.core.errors import Busy, GateFailed, RolledBack
from torchrelay.core.progress import Quiet
from torchrelay.model.model import Model
from torchrelay.model.samples import Expect, Sample
from torchrelay.targets import Context, Endpoint, Release
from torchrelay.targets.contract import read_record
from torchrelay.targets.kubernetes import lock, state
from torchrelay.targets.kubernetes.objects import apply_version
from torchrelay.targets.kubernetes.state import DeployedVersion, Live
from torchrelay.targets.kubernetes.target import KubernetesTarget
from torchrelay.targets.kubernetes.waiting import REVISION, newest_pods

NAME = "digits"
LABELS = {"app.kubernetes.io/managed-by": "torchrelay", "app.kubernetes.io/name": NAME}
SAMPLE = Sample("one", b"1", "application/json", Expect(value="right"), None, "samples/one.json", 1)
ANSWERS = {"one": "right", "two": "right", "three": "right", "wrong": "wrong", "turns": ONLY_AS_CANDIDATE}


def release(name: str) -> Release:
    return Release(name, f"sha256:{name}", (SAMPLE,), reference=name)


def rendered(_: Model, of: Release) -> list[Document]:
    """Manifests as kustomize would render them, as far as the target reads them."""

    def document(kind: str, spec: Document) -> Document:
        return {"kind": kind, "metadata": {"name": NAME, "namespace": "ns", "labels": dict(LABELS)}, "spec": spec}

    template = {"metadata": {"labels": dict(LABELS)}, "spec": {"containers": [{"name": "server", "image": of.version}]}}
    deployment = document("Deployment", {"replicas": 1, "template": template})
    return [deployment, *(document(kind, {}) for kind in ("Service", "PodDisruptionBudget", "NetworkPolicy", "ServiceAccount"))]


@dataclass
class Clock:
    """The lock's clock. Advancing it beyond the Lease's duration loses the lock."""

    now: float = 1000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@dataclass
class World:
    """The target, over a fake cluster."""

    target: KubernetesTarget
    cluster: FakeCluster
    clock: Clock

    def deploy(self, name: str) -> Endpoint:
        return self.target.apply(release(name))

    def lose_lock(self) -> None:
        self.clock.now += lock.LASTS_S + 1

    def put(self, name: str, *, verified: bool = True, previous: str = "") -> None:
        """Put a version into the cluster, as another relay would."""
        before = version(previous) if previous else None
        (deployment,) = [one for one in rendered(self.target.model, release(name)) if one["kind"] == "Deployment"]
        self.cluster.apply(state.deployment(deployment, version(name), verified=verified, previous=before))
        if ("Service", NAME) not in self.cluster.objects:
            self.cluster.apply(rendered(self.target.model, release(name))[1])

    @property
    def live(self) -> Live:
        live = state.read(self.cluster.objects["Deployment", NAME])
        assert live is not None
        return live

    @property
    def versions(self) -> tuple[str, bool, str]:
        """The live version, whether it is verified, and the previous version."""
        return self.live.version.version, self.live.verified, self.live.previous.version if self.live.previous else ""


def version(name: str) -> DeployedVersion:
    return state.version_of(release(name), rendered(None, release(name)))  # type: ignore[arg-type] # a stand-in


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    clock, cluster = Clock(), FakeCluster(dict(ANSWERS))
    monkeypatch.setattr(lock, "time", clock)
    model = Model.model_validate({"name": NAME, "weights": "model.pt", "handler": "tensor"})
    context = Context(tmp_path, model, Quiet(), tmp_path / "cache")
    connect: Callable[[Any], Any] = lambda _: cluster  # noqa: E731 -- typed, because the fake is not an Api
    return World(KubernetesTarget(context, connect=connect, render=rendered), cluster, clock)


def test_deployed_replaced_kept_rolled_back_and_deleted(world: World) -> None:
    assert (world.deploy("one").state, world.versions) == ("ready", ("one", True, ""))
    second = world.deploy("two")
    assert (second.version, second.previous, second.skipped) == ("two", "sha256:one", False)
    assert world.cluster.versions_asked[-5:-3] == ["two candidate", "two candidate"]
    again = world.deploy("two")
    assert (again.skipped, world.versions) == (True, ("two", True, "one"))
    assert world.target.plan(release("two")).unchanged
    assert not world.target.plan(release("three")).unchanged
    back = world.target.rollback()
    assert (back.version, back.previous) == ("one", "sha256:two")
    recorded = read_record(world.target.context, "kubernetes")
    assert recorded.current is not None
    assert recorded.current.version == "one"
    assert world.cluster.candidates() == set()
    assert world.target.delete() is True
    assert world.cluster.names() == set()
    assert world.target.status().state == "absent"
    assert world.target.delete() is False


def test_a_model_with_large_batches_is_verified_in_full_batches(world: World) -> None:
    concurrency: list[int] = []
    execute = world.cluster.execute

    def noted(pod: str, command: Any, stdin: bytes, timeout_s: float) -> tuple[int, bytes, bytes]:
        if b'"concurrency": ' in stdin:
            concurrency.append(int(stdin.split(b'"concurrency": ')[1].split(b",")[0]))
        return execute(pod, command, stdin, timeout_s)

    world.cluster.execute = noted  # type: ignore[method-assign] # replaced for this test
    world.put("one")
    world.target.model = Model.model_validate(
        {"name": NAME, "weights": "model.pt", "handler": "tensor", "batch": {"size": 32, "delay_ms": 10}}
    )
    world.target.verify([SAMPLE])
    assert concurrency == [1, 32]


def test_a_version_that_fails_as_candidate_changes_nothing(world: World) -> None:
    world.deploy("one")
    with fails(GateFailed, "one: "):
        world.deploy("wrong")
    assert (world.versions, world.cluster.candidates()) == (("one", True, ""), set())


def test_a_version_that_fails_behind_the_service_is_rolled_back(world: World) -> None:
    world.put("two", previous="one")
    seen: list[tuple[str, str]] = []

    def note() -> None:
        assert world.live.last_verified is not None
        seen.append((world.live.version.version, world.live.last_verified.version))

    world.cluster.before_answer = note
    with pytest.raises(RolledBack, match=r"turns failed behind the Service: .*; two answers again"):
        world.deploy("turns")
    assert seen[0] == ("turns", "two")
    assert world.versions == ("two", True, "one")
    assert world.cluster.versions_asked[-1] == "two service", "the restored version is verified again"


def test_killed_while_it_goes_back_the_verified_version_is_still_known(world: World) -> None:
    world.put("two", previous="one")
    world.cluster.killed_at_apply = 2  # the first applies the new version, the second restores the old one
    with pytest.raises(Killed):
        world.deploy("turns")
    assert world.versions == ("two", True, "one")


def test_a_verified_version_that_is_applied_again_stays_verified(world: World) -> None:
    world.deploy("one")
    world.cluster.objects["Deployment", NAME]["spec"]["paused"] = True  # changed by hand, so it is applied again
    verified: list[str] = []

    def note() -> None:
        assert world.live.last_verified is not None
        verified.append(world.live.last_verified.version)

    world.cluster.before_answer = note
    assert not world.deploy("one").skipped
    assert set(verified) == {"one"}


def test_a_rollback_of_an_interrupted_rollout_always_knows_a_verified_version(world: World) -> None:
    world.put("two", verified=False, previous="one")
    world.cluster.killed_at_apply = 1
    with pytest.raises(Killed):
        world.target.rollback()
    assert world.live.last_verified is not None
    assert world.live.last_verified.version == "one"


@pytest.mark.parametrize("before", ["", "three"])
@pytest.mark.parametrize("failure", [None, KeyboardInterrupt()])
def test_a_relay_that_lost_its_lock_leaves_the_other_relays_version(
    world: World, before: str, failure: BaseException | None
) -> None:
    if before:
        world.put(before)

    def another_relay() -> None:
        world.lose_lock()
        world.put("two")
        if failure:
            raise failure

    world.cluster.before_answer = another_relay
    with pytest.raises(type(failure) if failure else Busy):
        world.deploy("turns")
    assert world.live.version.version == "two"


@pytest.mark.parametrize("failure", [GateFailed("no"), KeyboardInterrupt()])
@pytest.mark.parametrize("other", [False, True])
def test_a_first_version_that_fails_is_removed_but_not_another_relays(world: World, failure: BaseException, other: bool) -> None:
    """The control of the test above: the lock is held."""

    def fail() -> None:
        if other:
            world.put("two")
        raise failure

    world.cluster.before_answer = fail
    with pytest.raises(type(failure)):
        world.deploy("one")
    if other:
        assert world.live.version.version == "two"
    else:
        assert world.cluster.names() == set()


@pytest.mark.parametrize(("lost", "other"), [(True, True), (True, False), (False, False)])
def test_a_candidate_that_fails_removes_its_account_unless_the_lock_was_lost(world: World, lost: bool, other: bool) -> None:
    def start() -> None:
        if lost:
            world.lose_lock()
        if other:
            world.put("two")

    world.cluster.before_candidate = start
    with pytest.raises(Busy if lost else GateFailed):
        world.deploy("one" if lost else "wrong")
    assert ("ServiceAccount" in world.cluster.names(), "Deployment" in world.cluster.names()) == (lost, other)


@pytest.mark.parametrize("verified", [True, False])
def test_only_a_verified_live_version_is_asked_for_its_answers(world: World, verified: bool) -> None:
    """Its correct answers are what it must give again after a failed rollout; an interrupted rollout is not restored."""
    world.put("two", verified=verified, previous="one")
    world.deploy("three")
    assert ("two service" in world.cluster.versions_asked) is verified


def test_a_rollback_or_delete_that_lost_its_lock_changes_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.put("two", previous="one")
    before = world.cluster.get("Deployment", NAME)
    read = world.cluster.list

    def losing(kind: str, selector: str = "", fields: str = "") -> list[Document]:
        world.lose_lock()
        return read(kind, selector, fields)

    with monkeypatch.context() as patch:
        patch.setattr(world.cluster, "list", losing)
        with pytest.raises(Busy):
            world.target.delete()
    assert world.cluster.get("Deployment", NAME) == before
    get = world.cluster.get

    def losing_get(kind: str, name: str, *, quick: bool = False) -> Document | None:
        if kind == "Deployment":
            world.lose_lock()
        return get(kind, name, quick=quick)

    with monkeypatch.context() as patch:
        patch.setattr(world.cluster, "get", losing_get)
        with pytest.raises(Busy):
            world.target.rollback()
    assert world.cluster.get("Deployment", NAME) == before
    assert world.target.rollback().version == "one"
    assert world.target.delete() is True


def test_going_back_leaves_the_number_of_pods_to_an_autoscaler(world: World) -> None:
    fields: dict[str, Any] = {"fieldsV1": {"f:spec": {"f:replicas": {}}}}
    for manager, scaled in (("kube-controller-manager", True), ("kubectl", False)):
        world.put("two", previous="one")
        live = world.cluster.objects["Deployment", NAME]
        live["metadata"]["managedFields"] = [{"manager": manager, **fields}]
        apply_version(world.cluster, live, version("one"), verified=True, previous=None)  # type: ignore[arg-type] # a stand-in
        assert ("replicas" not in world.cluster.objects["Deployment", NAME]["spec"]) is scaled, manager


@pytest.mark.parametrize(("phase", "trouble"), [("Failed", None), ("Pending", "the container ended with code 1")])
def test_evicted_pods_delay_no_rollout(world: World, phase: str, trouble: str | None) -> None:
    """The second case is the control: a pod that still exists."""
    revision = {"annotations": {REVISION: "1"}}
    labels = {"app.kubernetes.io/name": NAME, "app.kubernetes.io/component": "server", "pod-template-hash": "x"}
    ended = {"name": "server", "state": {"terminated": {"exitCode": 1}}}
    status = {"phase": phase, "containerStatuses": [ended]}
    world.cluster.objects["Pod", "a"] = {"metadata": {"name": "a", "labels": labels}, "status": status}
    world.cluster.objects["ReplicaSet", "s"] = {"metadata": {"name": "s", "labels": labels, **revision}}
    _, reason, _ = newest_pods(world.cluster, {"metadata": revision}, NAME)  # type: ignore[arg-type] # a stand-in
    assert (reason and reason.what.partition(" before")[0]) == trouble
