"""The lock of a model in a cluster: who holds it, until when, and what happens when a reply is lost."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests import messages
from tests.errors import fails
from torchrelay.core.errors import Busy, ClusterRefused
from torchrelay.targets.kubernetes import lock
from torchrelay.targets.kubernetes.lock import LASTS_S, HeldLease, take_lease

NAME = "torchrelay-digits"


@dataclass
class Leases:
    """A fake Api with one Lease that obeys resourceVersion. `fails`: the next failures."""

    namespace: str = "ns"
    lease: dict[str, Any] | None = None
    fails: list[str] = field(default_factory=list)
    version: int = 0
    quick: list[bool] = field(default_factory=list)

    def get(self, kind: str, name: str, *, quick: bool = False) -> dict[str, Any] | None:
        assert (kind, name) == ("Lease", NAME)
        self.quick.append(quick)
        return copy.deepcopy(self.lease)

    def create(self, document: dict[str, Any]) -> dict[str, Any] | None:
        return None if self.lease else self._store(document)

    def replace(self, document: dict[str, Any], *, quick: bool = False) -> dict[str, Any] | None:
        self.quick.append(quick)
        fails = self.fails.pop(0) if self.fails else ""
        if fails == "no answer":
            raise ClusterRefused("timed out")
        if self.lease is None or document["metadata"]["resourceVersion"] != self.lease["metadata"]["resourceVersion"]:
            return None
        stored = self._store(document)
        if fails == "answer lost":
            raise ClusterRefused("timed out")
        return stored

    def _store(self, document: dict[str, Any]) -> dict[str, Any]:
        self.version += 1
        self.lease = copy.deepcopy(document)
        self.lease["metadata"]["resourceVersion"] = str(self.version)
        return copy.deepcopy(self.lease)

    def taken_by(self, holder: str) -> None:
        self._store(
            {"metadata": {"name": NAME}, "spec": {"holderIdentity": holder, "renewTime": "1", "leaseDurationSeconds": LASTS_S}}
        )


class Clock:
    """A fake clock: waits take no time."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    fake_time = Clock()
    monkeypatch.setattr(lock, "time", fake_time)
    return fake_time


def taken(leases: Leases, holder: str = "me", patience_s: float = 60.0) -> HeldLease:
    return take_lease(leases, "digits", holder, patience_s)  # type: ignore[arg-type] # a stand-in


def test_a_free_lease_is_acquired_and_a_held_one_is_waited_for(clock: Clock) -> None:
    leases = Leases()
    assert (taken(leases).renewed, leases.lease and leases.lease["spec"]["holderIdentity"]) == (1000.0, "me")
    with fails(Busy, words=messages.HOLDS_LEASE):
        taken(leases, "other", patience_s=LASTS_S - 5)
    began = clock.now
    held = taken(leases, "other")
    assert (held.holder, held.lease["spec"]["holderIdentity"], held.renewed) == ("other", "other", clock.now)
    assert clock.now - began > LASTS_S, "it was taken from a holder that may be alive"


def test_a_lease_that_cannot_be_renewed_is_not_held_for_longer_than_it_lasts(clock: Clock) -> None:
    held = taken(Leases(fails=["no answer", "", "no answer"]))
    clock.now += LASTS_S - 1
    held.require()
    with pytest.raises(ClusterRefused):
        held.renew()
    clock.now += 2
    with fails(Busy, words=messages.LOST_LEASE):
        held.require()
    assert held.renew()  # nobody took it meanwhile: its resourceVersion is unchanged
    held.require()
    clock.now += 1
    renewed = held.renewed
    with pytest.raises(ClusterRefused):
        held.renew()
    assert held.renewed == renewed


def test_a_renewal_whose_reply_was_lost_does_not_lose_the_lease() -> None:
    leases = Leases(fails=["answer lost"])
    held = taken(leases)
    leases.quick.clear()
    with pytest.raises(ClusterRefused):
        held.renew()
    assert (held.renew(), held.renew()) == (False, True)
    assert all(leases.quick), "a slow call would outlast the Lease"
    held.require()


@pytest.mark.parametrize("by", ["other", ""])
def test_a_lease_that_another_holds_or_that_is_gone_is_lost(by: str) -> None:
    """The control of the test above: the same conflict, but another holder."""
    leases = Leases()
    held = taken(leases)
    if by:
        leases.taken_by(by)
    else:
        leases.lease = None
    assert not held.renew()
    with pytest.raises(Busy):
        held.require()


class Waits:
    """A fake of the event that ends `keep`: records the pauses, and ends after some."""

    def __init__(self, clock: Clock, times: int) -> None:
        self.clock, self.times, self.pauses = clock, times, list[float]()

    def wait(self, seconds: float) -> bool:
        self.pauses.append(seconds)
        self.clock.now += seconds
        return len(self.pauses) > self.times


def test_keep_renews_tries_again_soon_and_ends_when_it_is_lost(clock: Clock) -> None:
    leases = Leases(fails=["", "answer lost", ""])
    held = taken(leases)
    held.over = waits = Waits(clock, 5)  # type: ignore[assignment] # a stand-in
    held.keep()
    usual, soon = lock.RENEW_S, lock.POLL_S
    assert waits.pauses == [usual, usual, soon, soon, usual, usual]
    held.require()

    leases.taken_by("other")
    held.over = waits = Waits(clock, 5)  # type: ignore[assignment] # a stand-in
    held.keep()
    assert waits.pauses == [usual]
    assert held.is_lost
