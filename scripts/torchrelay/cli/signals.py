"""Ctrl-C and TERM: the first ends the run in order, the second at once."""

import os
import signal
import sys
from collections.abc import Callable
from types import FrameType

CHECK_INTERVAL_S = 0.5
"""Seconds between two checks that the exception raised for a signal is on its way."""


class Interrupts:
    """What this process does about Ctrl-C and TERM; `reported` is set once an error has been printed."""

    def __init__(self) -> None:
        self.reported = False
        self._asked = False
        self._raised: BaseException | None = None

    def caused(self, error: BaseException | None) -> bool:
        """Return whether an exception is the one raised for a signal, or was raised while that one was handled."""
        while error is not None and self._raised is not None:
            if error is self._raised:
                return True
            error = error.__context__
        return False

    def install(self, at_once: Callable[[], int]) -> None:
        """Handle Ctrl-C and TERM from now on; `at_once` reports a second one and returns the exit code."""

        def on_signal(_signal: int, _frame: FrameType | None) -> None:
            if self.reported:
                return
            if self._asked:
                os._exit(at_once())
            self._asked = True
            signal.signal(signal.SIGALRM, self._on_alarm)
            signal.setitimer(signal.ITIMER_REAL, CHECK_INTERVAL_S, CHECK_INTERVAL_S)
            self._raise()

        signal.signal(signal.SIGTERM, on_signal)
        signal.signal(signal.SIGINT, on_signal)

    def _on_alarm(self, _signal: int, _frame: FrameType | None) -> None:
        """Raise again when the exception was lost: CPython's io clears what a finalizer raises (iobase_finalize)."""
        if not self.reported and not self.caused(sys.exc_info()[1]):
            self._raise()

    def _raise(self) -> None:
        self._raised = KeyboardInterrupt()
        raise self._raised


def ignore() -> None:
    """Ignore late signals: the interpreter's own end would let them kill it."""
    signal.setitimer(signal.ITIMER_REAL, 0)
    for late in (signal.SIGTERM, signal.SIGINT):
        signal.signal(late, signal.SIG_IGN)
