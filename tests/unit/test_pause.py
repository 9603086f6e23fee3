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
