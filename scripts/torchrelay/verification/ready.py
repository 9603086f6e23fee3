"""Waits until a model is ready, and explains why it is not."""

import time
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Literal

from torchrelay.core.errors import GateFailed
from torchrelay.core.retry import pause
from torchrelay.verification import diagnosis
from torchrelay.verification.prober import Prober, ProbeRequest, Readiness, container_prober

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.containers import Container

POLL_S = 0.25
START_MARGIN_S = 30
"""Seconds that a container may take to start, beside the model's own `timeouts.startup_s`."""
LOG_LINES = 400
REFUSED = "the warm-up request was answered with"  # torchrelay_runtime/readiness.py
REFUSED_S = 3.0
"""Seconds of refused warm-up requests after which the model is not waited for any longer."""
PING_S = 30.0
TRACEBACK_S = 5.0
"""Seconds that the traceback of a failed load may take to appear in the log."""
LOAD_FIX = "fix the error shown in the traceback"
STARTUP_FIX = "if it only needs longer, raise timeouts.startup_s in model.yaml"

ReadLog = Callable[[int | None], str]
"""Returns the last lines of a server's log since its start, all of them for None."""


def wait_ready(
    ask: Callable[[], Readiness],
    read_log: ReadLog,
    limit_s: float,
    *,
    poll_s: float = POLL_S,
    clock: Callable[[], float] = time.monotonic,
) -> float:
    """Ask until a worker has answered; return the seconds it took. `ask` raises when the server has ended.

    Raises GateFailed with the last state when the model does not load or answer, or is too slow; and whatever `ask` raises.
    """
    begin = clock()
    reason, refused_since = "not asked yet", None
    while clock() - begin < limit_s:
        state = ask()
        if state.ready:
            return clock() - begin
        reason = state.reason
        if state.failed or diagnosis.has_failed_to_load(read_log(LOG_LINES)):
            log = _with_traceback(read_log, poll_s, clock)
            cause = diagnosis.load_failure(log, reason if state.failed else "its process died")
            raise GateFailed(f"the model does not load: {cause}", STARTUP_FIX if "startup_s" in cause else LOAD_FIX)
        refused_since = (refused_since or clock()) if reason.startswith(REFUSED) else None
        if refused_since is not None and clock() - refused_since > REFUSED_S:
            raise GateFailed(f"the model loads but does not answer: {reason}", LOAD_FIX)
        pause(poll_s)
    raise GateFailed(f"not ready after {limit_s:.0f} s; last state: {reason}", STARTUP_FIX)


def _with_traceback(read_log: ReadLog, poll_s: float, clock: Callable[[], float]) -> str:
    """Return the whole log; its traceback may come last, because two threads write the log, and late on a busy machine."""
    deadline = clock() + TRACEBACK_S
    while True:
        pause(poll_s)
        log = read_log(None)
        if diagnosis.python_traceback(log) or clock() >= deadline:
            return log


def wait_container_ready(container: "Container", limit_s: float) -> float:
    """Wait until the model of a Docker container is ready; return the seconds it took.

    Raises GateFailed as `wait_ready` does, and when the container ends.
    """
    prober = container_prober(container)

    def ask() -> Readiness:
        container.reload()
        if container.status != "running":
            raise GateFailed(f"the container ended with code {container.attrs['State'].get('ExitCode')} before it was ready")
        return prober.ready()

    return wait_ready(ask, lambda lines: container_log(container, lines), limit_s)


def wait_ping(connect: Callable[[], Prober], address: str, limit_s: float = PING_S) -> None:
    """Wait until /ping is answered with 200; `connect` returns a prober for each attempt.

    Raises GateFailed with the last answer; `address` is named in its message.
    """
    deadline, last = time.monotonic() + limit_s, "not asked yet"
    while time.monotonic() < deadline:
        answer = connect().send([ProbeRequest("ping", "GET", "/ping", "", b"")], 1, 5.0)[0]
        if answer.status == 200:
            return
        last = answer.error or f"{answer.status} {answer.body[:200].decode(errors='replace')}"
        pause(POLL_S)
    raise GateFailed(f"{address}/ping is not answered with 200 after {limit_s:.0f} s: {last}")


def container_log(container: "Container", lines: int | None = None) -> str:
    """Return the end of a container's log since its last start, all of it by default."""
    since = datetime.fromisoformat(container.attrs["State"]["StartedAt"][:19] + "+00:00")
    tail: Literal["all"] | int = "all" if lines is None else lines
    return container.logs(since=int(since.timestamp()), tail=tail).decode(errors="replace")


def killed_for_memory(client: "DockerClient", container: "Container") -> bool:
    """Return whether the kernel killed a process of a container for lack of memory, by the daemon's own clock and events."""
    now = datetime.fromisoformat(client.info()["SystemTime"][:19] + "+00:00")
    until = int(now.timestamp()) + 1
    filters = {"container": container.id, "event": "oom"}
    return any(client.events(since=1, until=until, filters=filters, decode=True))
