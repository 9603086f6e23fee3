"""Waiting that hears a signal, whenever it comes."""

import time

import pytest

from torchrelay import pause


def test_no_piece_is_longer_than_a_signal_may_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    now, slept = 0.0, list[float]()

    def sleep(seconds: float) -> None:
        nonlocal now
        slept.append(seconds)
        now += seconds

    monkeypatch.setattr(time, "sleep", sleep)
    monkeypatch.setattr(time, "monotonic", lambda: now)
    pause.pause(60.2)
    assert sum(slept) == pytest.approx(60.2)
    assert max(slept) <= pause.SLICE_S
    pause.pause(0.0)
    assert sum(slept) == pytest.approx(60.2)
