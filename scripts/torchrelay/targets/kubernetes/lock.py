"""Allows one relay at a time to change a model in a cluster, by a Lease that is renewed while held and taken over when stale."""

import logging
import os
import platform
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime

from torchrelay.core.errors import Busy, TorchrelayError
from torchrelay.targets.kubernetes.api import Api
from torchrelay.targets.kubernetes.manifests import MANAGED_LABEL, MANAGER, NAME_LABEL, Document

log = logging.getLogger(__name__)
LASTS_S = 15
RENEW_S = 4.0
POLL_S = 1.0


@dataclass
class LeaseWatch:
    """Detects a killed holder: its Lease stops changing. Only this machine's clock is used, because clocks differ."""

    since: float = 0.0
    state: tuple[str, str] = ("", "")

    def is_stale(self, now: float, lease: Document) -> bool:
        """Note the Lease's state at `now` (seconds of any monotonic clock); return whether its holder no longer renews it."""
        spec = lease["spec"]
        state = (str(spec.get("holderIdentity") or ""), str(spec.get("renewTime") or ""))
        if state != self.state:
            self.state, self.since = state, now
        return not state[0] or now - self.since > float(spec.get("leaseDurationSeconds") or LASTS_S)


@dataclass
class HeldLease:
    """A Lease that this process holds until it is `lost`. `renewed`: when it was last renewed, by the monotonic clock."""

    api: Api
    name: str
    holder: str
    lease: Document
    renewed: float
    lost: threading.Event = field(default_factory=threading.Event)
    over: threading.Event = field(default_factory=threading.Event)

    @property
    def is_lost(self) -> bool:
        """Whether another relay has taken over, or may have by now."""
        return self.lost.is_set() or time.monotonic() - self.renewed > LASTS_S

    def require(self) -> None:
        """Raise Busy when another relay may have taken over; called before each change."""
        if self.is_lost:
            raise Busy(f"{self.name}: the lock was lost to another relay", "run it again; completed work is kept")

    def keep(self) -> None:
        """Renew the Lease until it is released or lost."""
        pause = RENEW_S
        while not self.lost.is_set() and not self.over.wait(pause):
            try:
                pause = RENEW_S if self.renew() else POLL_S
            except TorchrelayError as error:
                log.debug("%s: not renewed: %s", self.name, error.message)
                pause = POLL_S

    def renew(self) -> bool:
        """Renew once; return whether it worked. A Lease that another relay holds is lost.

        Raises ClusterRefused when the API does not answer; the Lease may still be held then.
        """
        asked = time.monotonic()
        replaced = self.api.replace(lease_document(self.api, self.name, self.holder, self.lease), quick=True)
        if replaced is not None:
            self.lease, self.renewed = replaced, asked
            return True
        lease = self.api.get("Lease", f"torchrelay-{self.name}", quick=True)
        if lease is None or lease["spec"].get("holderIdentity") != self.holder:
            self.lost.set()
        else:
            self.lease = lease  # from a renewal whose reply was lost
        return False


def lease_document(api: Api, name: str, holder: str, previous: Document | None = None) -> Document:
    """Return the Lease with this holder; it replaces `previous`, if given."""
    metadata: Document = {
        "name": f"torchrelay-{name}",
        "namespace": api.namespace,
        "labels": {NAME_LABEL: name, MANAGED_LABEL: MANAGER},
    }
    if previous is not None:
        metadata["resourceVersion"] = previous["metadata"]["resourceVersion"]
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    spec = {"holderIdentity": holder, "leaseDurationSeconds": LASTS_S, "acquireTime": now, "renewTime": now}
    return {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": spec}


def take_lease(api: Api, name: str, holder: str, patience_s: float) -> HeldLease:
    """Take the Lease, waiting while another relay holds it.

    Raises Busy when its holder still renews it after `patience_s` seconds.
    """
    watch, deadline, announced = LeaseWatch(), time.monotonic() + patience_s, False
    while True:
        lease = api.get("Lease", f"torchrelay-{name}")
        taken, asked = None, time.monotonic()
        if lease is None:
            taken = api.create(lease_document(api, name, holder))
        elif watch.is_stale(time.monotonic(), lease) or lease["spec"].get("holderIdentity") == holder:
            taken = api.replace(lease_document(api, name, holder, lease))
        if taken is not None:
            return HeldLease(api, name, holder, taken, asked)
        by = watch.state[0] or "another relay"
        if time.monotonic() > deadline:
            raise Busy(
                f"{name}: {by} has been working on it for more than {patience_s:.0f} s", "wait until it ends, then run it again"
            )
        if not announced and lease is not None:
            log.info("waiting for %s, which works on %s", by, name)
            announced = True
        time.sleep(POLL_S)


@contextmanager
def hold_lease(api: Api, name: str, patience_s: float) -> Iterator[HeldLease]:
    """Hold the lock of a model in a namespace for this process.

    Raises Busy when another process holds it for longer than `patience_s` seconds.
    """
    holder = f"{platform.node()}-{os.getpid()}-{secrets.token_hex(3)}"
    held = take_lease(api, name, holder, patience_s)
    keeper = threading.Thread(target=held.keep, daemon=True)
    keeper.start()
    try:
        yield held
    finally:
        held.over.set()
        keeper.join()
        with suppress(TorchrelayError):  # otherwise it expires by itself
            if not held.lost.is_set():
                api.delete("Lease", f"torchrelay-{name}", of_version=held.lease["metadata"]["resourceVersion"])
