"""Ctrl-C and TERM: the first ends the run in order, the second at once."""

import os
import signal
import sys
from collections.abc import Callable
from types import FrameType

AGAIN_S = 0.5
"""Seconds between two checks that the exception raised for a signal is on its way."""


class Stop:
    """The state of a stop in this process. `raised` is the exception that was raised for the signal last."""

    asked = False
    reported = False
    raised: BaseException | None = None


def caused_by_signal(error: BaseException | None) -> bool:
    """Return whether an exception is the one raised for a signal, or was raised while that one was handled."""
    while error is not None and Stop.raised is not None:
        if error is Stop.raised:
            return True
        error = error.__context__
    return False


def _on_alarm(_signal: int, _frame: FrameType | None) -> None:
    """Raise again when the exception was lost: CPython's io clears what a finalizer raises (iobase_finalize)."""
    if not Stop.reported and not caused_by_signal(sys.exc_info()[1]):
        Stop.raised = KeyboardInterrupt()
        raise Stop.raised


def install(at_once: Callable[[], int]) -> None:
    """Handle Ctrl-C and TERM from now on; `at_once` reports a second one and returns the exit code."""

    def on_signal(_signal: int, _frame: FrameType | None) -> None:
        if Stop.reported:
            return
        if Stop.asked:
            os._exit(at_once())
        Stop.asked = True
        Stop.raised = KeyboardInterrupt()
        signal.signal(signal.SIGALRM, _on_alarm)
        signal.setitimer(signal.ITIMER_REAL, AGAIN_S, AGAIN_S)
        raise Stop.raised

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)


def ignore() -> None:
    """Ignore late signals: the interpreter's own end would let them kill it."""
    signal.setitimer(signal.ITIMER_REAL, 0)
    for late in (signal.SIGTERM, signal.SIGINT):
        signal.signal(late, signal.SIG_IGN)
