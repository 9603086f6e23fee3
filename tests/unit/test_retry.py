"""Waiting that hears a signal, whenever it comes."""

import time

import pytest

from torchrelay.core import retry


def test_no_piece_is_longer_than_a_signal_may_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    now, slept = 0.0, list[float]()

    def sleep(seconds: float) -> None:
        nonlocal now
        slept.append(seconds)
        now += seconds

    monkeypatch.setattr(time, "sleep", sleep)
    monkeypatch.setattr(time, "monotonic", lambda: now)
    retry.pause(60.2)
    assert sum(slept) == pytest.approx(60.2)
    assert max(slept) <= retry.SLICE_S
    retry.pause(0.0)
    assert sum(slept) == pytest.approx(60.2)


def attempts(failures: list[retry.RetryLater], policy: retry.Policy) -> tuple[list[float], int]:
    """Return the waits, and how often the work was called; it fails once for each failure, then succeeds."""
    waits, calls = list[float](), 0

    def work() -> str:
        nonlocal calls
        calls += 1
        if len(failures) >= calls:
            raise failures[calls - 1]
        return "done"

    assert retry.retrying(work, policy, sleep=waits.append) == "done"
    return waits, calls


def test_a_call_is_repeated_until_it_succeeds_with_longer_and_longer_waits() -> None:
    waits, calls = attempts([retry.RetryLater("busy")] * 3, retry.Policy(attempts=4, first_wait_s=1.0))
    assert calls == 4
    assert [0.75 * 2**turn <= wait <= 1.25 * 2**turn for turn, wait in enumerate(waits)] == [True, True, True]


def test_the_wait_that_the_server_asks_for_is_kept_up_to_the_longest() -> None:
    waits, _ = attempts([retry.RetryLater("busy", 7.0), retry.RetryLater("busy", 900.0)], retry.Policy(longest_wait_s=60.0))
    assert waits == [7.0, 60.0]


def test_the_last_failure_is_raised_when_the_attempts_are_used_up() -> None:
    reasons: list[str] = []

    def work() -> None:
        reasons.append("x")
        raise retry.RetryLater(f"failure {len(reasons)}")

    with pytest.raises(retry.RetryLater, match="failure 3"):
        retry.retrying(work, retry.Policy(attempts=3), sleep=lambda _seconds: None)


def test_any_other_error_is_raised_at_once() -> None:
    calls = 0

    def work() -> None:
        nonlocal calls
        calls += 1
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        retry.retrying(work, retry.Policy(), sleep=lambda _seconds: None)
    assert calls == 1


@pytest.mark.parametrize(
    ("header", "seconds"),
    [(None, None), ("", None), ("12", 12.0), (" 3 ", 3.0), ("soon", None), ("-1", None), ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0)],
)
def test_retry_after_is_seconds_or_a_date(header: str | None, seconds: float | None) -> None:
    assert retry.retry_after_s(header) == seconds
