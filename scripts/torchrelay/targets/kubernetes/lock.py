"""One relay at a time at a model in a cluster: a Lease that is renewed while it is held, and taken over when it is not."""

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
class Seen:
    """Tells a holder that lives from one that was killed: by what was seen change, as clocks of two machines differ."""

    since: float = 0.0
    state: tuple[str, str] = ("", "")

    def is_stale(self, now: float, lease: Document) -> bool:
        """Take in a look at the Lease, `now` in seconds of any steady clock; say whether its holder renews it no more."""
        spec = lease["spec"]
        state = (str(spec.get("holderIdentity") or ""), str(spec.get("renewTime") or ""))
        if state != self.state:
            self.state, self.since = state, now
        return not state[0] or now - self.since > float(spec.get("leaseDurationSeconds") or LASTS_S)


@dataclass
class Turn:
    """A Lease that this process holds, until `lost`. `renewed`: when it was last renewed, by the monotonic clock."""

    api: Api
    name: str
    holder: str
    lease: Document
    renewed: float
    lost: threading.Event = field(default_factory=threading.Event)
    over: threading.Event = field(default_factory=threading.Event)

    @property
    def is_lost(self) -> bool:
        """Tell whether another relay has taken over, or may have by now."""
        return self.lost.is_set() or time.monotonic() - self.renewed > LASTS_S

    def require(self) -> None:
        """Raise Busy when another relay may have taken over; called before each change."""
        if self.is_lost:
            raise Busy(f"{self.name}: the lock was lost to another relay", "run it again: it goes on from what is there")

    def keep(self) -> None:
        """Renew until it is over or lost."""
        pause = RENEW_S
        while not self.lost.is_set() and not self.over.wait(pause):
            try:
                pause = RENEW_S if self.renew() else POLL_S
            except TorchrelayError as error:
                log.debug("%s: not renewed: %s", self.name, error.message)
                pause = POLL_S

    def renew(self) -> bool:
        """Renew once; says whether it did. A Lease that another one has is lost.

        Raises ClusterRefused when the API does not answer, which says nothing of whose the Lease is.
        """
        asked = time.monotonic()
        kept = self.api.replace(lease_document(self.api, self.name, self.holder, self.lease), quick=True)
        if kept is not None:
            self.lease, self.renewed = kept, asked
            return True
        found = self.api.get("Lease", f"torchrelay-{self.name}", quick=True)
        if found is None or found["spec"].get("holderIdentity") != self.holder:
            self.lost.set()
        else:
            self.lease = found  # of a renewal whose answer was lost
        return False


def lease_document(api: Api, name: str, holder: str, previous: Document | None = None) -> Document:
    """Return the Lease as `holder` writes it, over the version of it that was read."""
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


def take(api: Api, name: str, holder: str, patience_s: float) -> Turn:
    """Take the Lease; one that is held is waited for.

    Raises Busy when its holder still renews it after `patience_s` seconds.
    """
    seen, deadline, told = Seen(), time.monotonic() + patience_s, False
    while True:
        lease = api.get("Lease", f"torchrelay-{name}")
        taken, asked = None, time.monotonic()
        if lease is None:
            taken = api.create(lease_document(api, name, holder))
        elif seen.is_stale(time.monotonic(), lease) or lease["spec"].get("holderIdentity") == holder:
            taken = api.replace(lease_document(api, name, holder, lease))
        if taken is not None:
            return Turn(api, name, holder, taken, asked)
        by = seen.state[0] or "another relay"
        if time.monotonic() > deadline:
            raise Busy(f"{name}: {by} works on it, for more than {patience_s:.0f} s by now", "wait for its end, then run it again")
        if not told and lease is not None:
            log.info("waiting for %s, which works on %s", by, name)
            told = True
        time.sleep(POLL_S)


@contextmanager
def turn(api: Api, name: str, patience_s: float) -> Iterator[Turn]:
    """Hold a model of a namespace for this process.

    Raises Busy when another one holds it for longer than `patience_s` seconds.
    """
    holder = f"{platform.node()}-{os.getpid()}-{secrets.token_hex(3)}"
    held = take(api, name, holder, patience_s)
    keeper = threading.Thread(target=held.keep, daemon=True)
    keeper.start()
    try:
        yield held
    finally:
        held.over.set()
        keeper.join()
        with suppress(TorchrelayError):  # it runs out by itself
            if not held.lost.is_set():
                api.delete("Lease", f"torchrelay-{name}", of_version=held.lease["metadata"]["resourceVersion"])
