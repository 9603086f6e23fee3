"""Waits until a container's model is ready, and explains why it is not."""

import time
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Literal

from torchrelay.core.errors import GateFailed
from torchrelay.verification import diagnosis
from torchrelay.verification.prober import ExecProber

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.containers import Container


POLL_S = 0.25


START_MARGIN_S = 30


LOG_LINES = 400


REFUSED = "the warm-up request was answered with"  # torchrelay_runtime/readiness.py


REFUSED_S = 3.0


LOAD_FIX = "mend what the traceback shows"


STARTUP_FIX = "if it only needs longer, raise timeouts.startup_s in model.yaml"


def wait_ready(container: "Container", deadline_s: float, clock: Callable[[], float] = time.monotonic) -> float:
    """Wait until a worker has answered; return the seconds it took.

    Raises GateFailed with the last state seen when the container ends, the model does not load or answer, or is too slow.
    """
    begin = clock()
    prober, reason, refused_since = ExecProber(container), "not asked yet", None
    while clock() - begin < deadline_s:
        container.reload()
        if container.status != "running":
            raise GateFailed(f"the container ended with code {container.attrs['State'].get('ExitCode')} before it was ready")
        state = prober.ready()
        if state.ready:
            return clock() - begin
        reason = state.reason
        if state.failed or diagnosis.has_failed_to_load(_log(container, LOG_LINES)):
            time.sleep(POLL_S)  # two threads write the log: the end of the traceback may come last
            why = diagnosis.load_failure(_log(container), reason if state.failed else "its process died")
            raise GateFailed(f"the model does not load: {why}", STARTUP_FIX if "startup_s" in why else LOAD_FIX)
        refused_since = (refused_since or clock()) if reason.startswith(REFUSED) else None
        if refused_since is not None and clock() - refused_since > REFUSED_S:
            raise GateFailed(f"the model loads but does not answer: {reason}", LOAD_FIX)
        time.sleep(POLL_S)
    raise GateFailed(f"not ready after {deadline_s:.0f} s; last state: {reason}", STARTUP_FIX)


def _log(container: "Container", lines: int | Literal["all"] = "all") -> str:
    """Return the log since the container's last start."""
    since = datetime.fromisoformat(container.attrs["State"]["StartedAt"][:19] + "+00:00")
    return container.logs(since=int(since.timestamp()), tail=lines).decode(errors="replace")


def killed_for_memory(client: "DockerClient", container: "Container") -> bool:
    """Tell whether the kernel killed any process of a container for want of memory, by the daemon's own clock and events."""
    now = datetime.fromisoformat(client.info()["SystemTime"][:19] + "+00:00")
    until = int(now.timestamp()) + 1
    wanted = {"container": container.id, "event": "oom"}
    return any(client.events(since=1, until=until, filters=wanted, decode=True))
