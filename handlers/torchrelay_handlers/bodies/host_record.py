"""Which hosts kept a batch waiting: those are not asked again for a while, because a whole batch waits for its fetches."""

import threading
import time
from collections import OrderedDict, deque
from dataclasses import dataclass

from torchrelay_handlers.problems import BadSample

FIRST_PAUSE_S = 30.0
LONGEST_PAUSE_S = 600.0
RECENT_S = 600.0
FEW_TIMEOUTS = 3
HURRIED_S = 0.25
_MOST_HOSTS = 1024


@dataclass(slots=True)
class _Record:
    """`timeouts`: those since its last answer; `until`: it is not asked before; times are those of time.monotonic."""

    answered_at: float | None = None
    timeouts: int = 0
    timed_out_at: float = float("-inf")
    pause_s: float = FIRST_PAUSE_S / 2
    until: float = float("-inf")


class HostRecord:
    """Remembers answers and time-outs by host.

    A host that has not answered yet is refused for `FIRST_PAUSE_S` after one time-out, one that has answered lately after
    `FEW_TIMEOUTS` in a row: one slow picture does not close a good host. Every further time-out doubles the pause. After
    `FEW_TIMEOUTS` of any hosts within `RECENT_S`, hosts that have not answered yet get `HURRIED_S` only: names are cheap.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._hosts: OrderedDict[str, _Record] = OrderedDict()
        self._timeouts: deque[float] = deque(maxlen=FEW_TIMEOUTS)

    def seconds_for(self, host: str, timeout_s: float) -> float:
        """How long to wait for `host`.

        Raises:
            BadSample: it is not asked now (424).
        """
        now = time.monotonic()
        with self._lock:
            record = self._hosts.get(host, _Record())
            if now < record.until:
                raise BadSample(
                    f"the host of the URL did not answer lately; it is asked again in {record.until - now:.0f} s",
                    status=424,
                    kind="unfetched-url",
                )
            full = len(self._timeouts) == FEW_TIMEOUTS and now - self._timeouts[0] < RECENT_S
            return min(timeout_s, HURRIED_S) if full and not _is_good(record, now) else timeout_s

    def answered(self, host: str) -> None:
        """`host` has answered, whatever it said."""
        with self._lock:
            self._hosts[host] = _Record(answered_at=time.monotonic())
            self._forget_oldest(host)

    def timed_out(self, host: str, waited_s: float) -> None:
        """`host` was silent for `waited_s`; several at the same time count once."""
        now = time.monotonic()
        with self._lock:
            record = self._hosts.setdefault(host, _Record())
            self._forget_oldest(host)
            if now - record.timed_out_at < waited_s / 2:
                return
            record.timed_out_at = now
            record.timeouts += 1
            self._timeouts.append(now)
            if record.timeouts >= FEW_TIMEOUTS or not _is_good(record, now):
                record.pause_s = min(2 * record.pause_s, LONGEST_PAUSE_S)
                record.until = now + record.pause_s

    def _forget_oldest(self, newest: str) -> None:
        self._hosts.move_to_end(newest)
        while len(self._hosts) > _MOST_HOSTS:
            self._hosts.popitem(last=False)


def _is_good(record: _Record, now: float) -> bool:
    return record.answered_at is not None and now - record.answered_at < RECENT_S
