"""What a relay leaves in a cluster when its lock is lost, when it is killed while it goes back, and under an autoscaler."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from torchrelay.core.errors import Busy, GateFailed, RolledBack
from torchrelay.core.progress import Quiet
from torchrelay.model.model import Model
from torchrelay.model.origin import Origin
from torchrelay.targets import Context, contract
from torchrelay.targets.kubernetes import objects as kube_objects
from torchrelay.targets.kubernetes import rollout, state
from torchrelay.targets.kubernetes import target as kubernetes
from torchrelay.targets.kubernetes.lock import LASTS_S, Turn
from torchrelay.targets.kubernetes.objects import Wanted
from torchrelay.targets.kubernetes.state import Live, Version

NAME = "digits"
LABELS = {"app.kubernetes.io/managed-by": "torchrelay", "app.kubernetes.io/name": NAME}


@dataclass
class Cluster:
    """Stands in for Api: keeps what is applied, whole. `killed_after`: applies of a Deployment after which the run is killed."""

    namespace: str = "ns"
    server: str = "https://api"
    objects: dict[str, dict[str, Any]] = field(default_factory=dict)
    killed_after: int = -1

    def get(self, kind: str, _: str) -> dict[str, Any] | None:
        return copy.deepcopy(self.objects.get(kind))

    def list(self, *_: str) -> list[dict[str, Any]]:
        return []

    def apply(self, document: dict[str, Any], *, dry_run: bool = False, **_: Any) -> dict[str, Any]:
        if not dry_run:
            self.objects[document["kind"]] = copy.deepcopy(document)
            if document["kind"] == "Deployment":
                self.killed_after -= 1
                if self.killed_after == 0:
                    raise Killed
        return document

    def delete(self, kind: str, *_: Any) -> bool:
        return self.objects.pop(kind, None) is not None

    @property
    def live(self) -> Live:
        found = state.read(self.objects["Deployment"])
        assert found is not None
        return found


class Killed(BaseException):
    """Stands in for SIGKILL: nothing is cleaned up after it."""


def version(name: str) -> Version:
    spec = {"replicas": 1, "template": {"spec": {"containers": [{"name": "server", "image": name}]}}}
    return Version(f"sha256:{name}", name, "2026-01-01", Origin(), spec)


def document(kind: str, **more: Any) -> dict[str, Any]:
    return {"kind": kind, "metadata": {"name": NAME, "namespace": "ns", "labels": LABELS}, **more}


def deployed(one: Version, *, proved: bool = True, previous: Version | None = None) -> dict[str, Any]:
    return state.deployment(document("Deployment"), one, proved=proved, previous=previous)


def wanted(one: Version) -> Wanted:
    kinds = [document(kind) for kind in ("Service", "PodDisruptionBudget", "ServiceAccount")]
    return Wanted([document("Deployment", spec=one.spec), *kinds], one)


@dataclass
class World:
    """The target over a cluster whose rollouts take no time."""

    target: kubernetes.KubernetesTarget
    cluster: Cluster
    held: Turn
    asked: list[str] = field(default_factory=list)
    fails: Callable[[], None] = lambda: None

    def put(self, one: Version) -> Any:
        live = state.read(self.cluster.get("Deployment", NAME))
        return self.target._put_live(self.held, live, wanted(one), (), ())

    def lose(self) -> None:
        self.held.renewed -= LASTS_S + 1


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    model = Model.model_validate({"name": NAME, "weights": "model.pt", "handler": "tensor"})
    cluster = Cluster()
    held = Turn(cluster, NAME, "me", {}, time.monotonic())  # type: ignore[arg-type]
    target = kubernetes.KubernetesTarget(Context(tmp_path, model, Quiet(), tmp_path / "cache"))
    made = World(target, cluster, held)

    @contextmanager
    def turn() -> Iterator[tuple[Any, Turn]]:
        yield cluster, held

    monkeypatch.setattr(target, "_turn", turn)
    monkeypatch.setattr(target, "_endpoint", lambda _, live: live)
    for name in ("wait_rolled", "wait_gone", "wait_service", "wait_observed", "wait_removed"):
        monkeypatch.setattr(kubernetes, name, lambda *_: None)
    monkeypatch.setattr(kubernetes, "prove_service", lambda *_: made.fails())
    return made


def failing(then: Callable[[], None] = lambda: None) -> Callable[[], None]:
    def fails() -> None:
        then()
        raise GateFailed("answers something else")

    return fails


ONE, TWO, THREE = version("one"), version("two"), version("three")


def test_killed_while_it_goes_back_the_good_version_is_still_known(world: World) -> None:
    world.cluster.objects["Deployment"] = deployed(TWO, previous=ONE)
    world.cluster.killed_after, world.fails = 2, failing()
    with pytest.raises(Killed):
        world.put(THREE)
    assert (world.cluster.live.version, world.cluster.live.good, world.cluster.live.previous) == (TWO, TWO, ONE)


def test_killed_while_it_goes_on_the_version_before_is_the_good_one(world: World) -> None:
    """The control of the one above: a version that nothing has proved yet is not good."""
    world.cluster.objects["Deployment"] = deployed(TWO, previous=ONE)
    seen: list[Live] = []
    world.fails = failing(lambda: seen.append(world.cluster.live))
    with pytest.raises(RolledBack):
        world.put(THREE)
    assert [(one.version, one.good) for one in seen] == [(THREE, TWO)]
    assert (world.cluster.live.version, world.cluster.live.proved) == (TWO, True)


def test_a_good_version_that_is_applied_again_stays_good(world: World) -> None:
    world.cluster.objects["Deployment"] = deployed(ONE)
    seen: list[Live] = []
    world.fails = lambda: seen.append(world.cluster.live)
    world.put(ONE)
    assert [one.good for one in seen] == [ONE]


def test_a_rollback_from_what_was_cut_short_knows_a_good_version_all_along(world: World) -> None:
    world.cluster.objects["Deployment"] = deployed(TWO, proved=False, previous=ONE)
    world.cluster.killed_after = 1
    with pytest.raises(Killed):
        world.target.rollback()
    assert world.cluster.live.good == ONE


def test_whoever_lost_the_lock_leaves_what_another_put_live(world: World) -> None:
    def other() -> None:
        world.lose()
        world.cluster.objects["Deployment"] = deployed(TWO)

    world.fails = failing(other)
    with pytest.raises(Busy):
        world.put(ONE)
    assert world.cluster.live.version == TWO


@pytest.mark.parametrize("before", [None, THREE])
def test_ctrl_c_after_the_lock_was_lost_changes_nothing(world: World, before: Version | None) -> None:
    if before:
        world.cluster.objects["Deployment"] = deployed(before)

    def other() -> None:
        world.lose()
        world.cluster.objects["Deployment"] = deployed(TWO)
        raise KeyboardInterrupt

    world.fails = other
    with pytest.raises(KeyboardInterrupt):
        world.put(ONE)
    assert world.cluster.live.version == TWO


@pytest.mark.parametrize("interrupt", [GateFailed("no"), KeyboardInterrupt()])
def test_a_first_version_that_fails_is_removed_while_the_lock_is_held(world: World, interrupt: BaseException) -> None:
    """The control of those above; and what another one put there stays all the same."""

    def fails() -> None:
        raise interrupt

    world.fails = fails
    with pytest.raises(type(interrupt)):
        world.put(ONE)
    assert world.cluster.objects == {}

    def other() -> None:
        world.cluster.objects["Deployment"] = deployed(TWO)
        raise interrupt

    world.fails = other
    with pytest.raises(type(interrupt)):
        world.put(ONE)
    assert world.cluster.live.version == TWO


@pytest.mark.parametrize(("lost", "other"), [(True, True), (True, False), (False, False)])
def test_a_candidate_that_fails_takes_its_account_along_unless_the_lock_was_lost(
    world: World, monkeypatch: pytest.MonkeyPatch, lost: bool, other: bool
) -> None:
    @contextmanager
    def running(*_: Any) -> Iterator[str]:
        if lost:
            world.lose()
        if other:
            world.cluster.objects["Deployment"] = deployed(TWO)
        yield "pod"

    def prove(*_: Any) -> None:
        if not lost:
            raise GateFailed("no")

    monkeypatch.setattr(kubernetes, "running_candidate", running)
    monkeypatch.setattr(contract, "prove", prove)
    with pytest.raises(Busy if lost else GateFailed):
        world.target._prove_candidate(world.held, None, wanted(ONE), ())
    left = {"ServiceAccount": lost, "Deployment": other}
    assert set(world.cluster.objects) == {kind for kind, stays in left.items() if stays}


def test_what_was_cut_short_is_not_asked_what_it_answers(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def running(*_: Any) -> Iterator[str]:
        yield "pod"

    monkeypatch.setattr(kubernetes, "running_candidate", running)
    monkeypatch.setattr(contract, "prove", lambda *_: None)
    monkeypatch.setattr(kubernetes, "address_of", lambda *_: None)
    monkeypatch.setattr(kubernetes, "answered_right", lambda *_: ["sample"])
    for proved, right in ((True, ["sample"]), (False, [])):
        live = state.read(deployed(TWO, proved=proved, previous=ONE))
        found: Any = world.target._prove_candidate(world.held, live, wanted(THREE), ())
        assert found == right


def test_a_rollback_or_delete_whose_lock_is_lost_changes_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kubernetes, "sweep_candidates", lambda *_: False)
    world.cluster.objects["Deployment"] = before = deployed(TWO, previous=ONE)
    world.lose()
    for change in (world.target.rollback, world.target.delete):
        with pytest.raises(Busy):
            change()
        assert world.cluster.objects["Deployment"] == before
    world.held.renewed = time.monotonic()
    world.target.rollback()
    assert world.cluster.live.version == ONE
    assert world.target.delete() is True


def test_going_back_leaves_the_number_of_pods_to_an_autoscaler(world: World) -> None:
    for manager, left in (("kube-controller-manager", True), ("kubectl", False)):
        found = deployed(TWO, previous=ONE)
        fields: dict[str, Any] = {"fieldsV1": {"f:spec": {"f:replicas": {}}}}
        found["metadata"]["managedFields"] = [{"manager": manager, **fields}]
        world.cluster.objects["Deployment"] = found
        kube_objects.apply_version(world.cluster, found, ONE, proved=True, previous=None)  # type: ignore[arg-type]
        assert ("replicas" not in world.cluster.objects["Deployment"]["spec"]) is left, manager


@pytest.mark.parametrize(("phase", "told"), [("Failed", None), ("Pending", "the container ended with code 1")])
def test_evicted_pods_hold_no_rollout_up(phase: str, told: str | None) -> None:
    """The second is the control: a pod that is still there."""
    revision = {"annotations": {rollout.REVISION: "1"}}
    ended = {"name": "server", "state": {"terminated": {"exitCode": 1}}}
    pods = [{"metadata": {"name": "a"}, "status": {"phase": phase, "containerStatuses": [ended]}}]
    sets = [{"metadata": {"name": "s", "labels": {"pod-template-hash": "x"}, **revision}}]

    class Lists:
        """Stands in for Api: its lists."""

        def list(self, kind: str, _: str) -> list[dict[str, Any]]:
            return pods if kind == "Pod" else sets

    _, trouble, _ = rollout._newest(Lists(), {"metadata": revision}, NAME)  # type: ignore[arg-type]
    assert (trouble and trouble.what.partition(" before")[0]) == told
