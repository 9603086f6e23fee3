"""How retries and their waits work (each caller gives its own `Policy`), and waiting that reacts to Ctrl-C and TERM.

A caller raises `RetryLater` for a failure that may pass; `retrying` repeats the call until it succeeds or the attempts are used up,
waits as long as the server asks (Retry-After), otherwise twice as long each time with some jitter.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from random import SystemRandom
from typing import TypeVar

import tenacity

SLICE_S = 0.5
T = TypeVar("T")


def pause(seconds: float) -> None:
    """Sleep in short pieces.

    A signal that arrives just before the system call sleeps through it: Python's handler runs when the call returns.
    """
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(left, SLICE_S))


class RetryLater(Exception):
    """A failure that may pass; `retry_after_s` is the wait that the server asks for, None when it does not say."""

    def __init__(self, reason: str, retry_after_s: float | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_after_s = retry_after_s


@dataclass(frozen=True)
class Policy:
    """How often a call is attempted and how long the waits between are, in seconds."""

    attempts: int = 6
    first_wait_s: float = 1.0
    longest_wait_s: float = 60.0

    def wait_s(self, attempt: int, failure: BaseException | None) -> float:
        """Return the wait after a failed attempt (counted from 1): what the server asks for, otherwise exponential with jitter."""
        asked = failure.retry_after_s if isinstance(failure, RetryLater) else None
        if asked is None:
            asked = self.first_wait_s * 2 ** (attempt - 1) * SystemRandom().uniform(0.75, 1.25)
        return min(self.longest_wait_s, max(0.0, asked))


def retrying(
    work: Callable[[], T],
    policy: Policy,
    *,
    before_wait: Callable[[RetryLater, float], None] | None = None,
    sleep: Callable[[float], None] = pause,
) -> T:
    """Return what `work` returns, calling it again while it raises RetryLater; `before_wait` is given the failure and the wait.

    Raises the last RetryLater when the attempts are used up; any other exception at once.
    """

    def announce(state: tenacity.RetryCallState) -> None:
        failure = state.outcome.exception() if state.outcome else None
        if before_wait is not None and isinstance(failure, RetryLater):
            before_wait(failure, state.upcoming_sleep)

    retry = tenacity.Retrying(
        stop=tenacity.stop_after_attempt(policy.attempts),
        retry=tenacity.retry_if_exception_type(RetryLater),
        wait=lambda state: policy.wait_s(state.attempt_number, state.outcome.exception() if state.outcome else None),
        before_sleep=announce,
        sleep=sleep,
        reraise=True,
    )
    return retry(work)


def retry_after_s(header: str | None) -> float | None:
    """Parse a Retry-After header, seconds or an HTTP date (RFC 9110, 10.2.3), into seconds from now; None when it says neither."""
    if header is None:
        return None
    if header.strip().isdecimal():
        return float(header)
    try:
        moment = parsedate_to_datetime(header)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())
