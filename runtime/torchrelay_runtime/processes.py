"""Child processes of PID 1: start, signal, reap, including the orphans that PID 1 inherits from a killed server."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path


class Child:
    """A child in its own session, so that a terminal's Ctrl-C reaches only PID 1 and the child's whole group can be killed."""

    def __init__(self, name: str, argv: list[str], env: dict[str, str] | None = None, cwd: Path | None = None) -> None:
        self.name = name
        self.code: int | None = None
        self._popen = subprocess.Popen(argv, env=env, cwd=cwd, stdin=subprocess.DEVNULL, start_new_session=True)
        self.pid = self._popen.pid

    def ended(self, wait_status: int) -> None:
        """Note the end, as a shell would number it: 128 + signal for a killed process."""
        code = os.waitstatus_to_exitcode(wait_status)
        self.code = code if code >= 0 else 128 - code
        self._popen.returncode = code  # `reap` collects the child, so Popen must not

    def signal(self, number: signal.Signals) -> None:
        """Send `number` to the process, unless it ended."""
        if self.code is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill_group(self) -> None:
        """Kill what is left of the process and its own children."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)


class Children:
    """All children, and the signals this process gets."""

    def __init__(self) -> None:
        self._children: dict[int, Child] = {}
        self._wake = threading.Event()
        self.stops = 0
        self.broken = False
        signal.signal(signal.SIGCHLD, lambda *_: self._wake.set())
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)

    def _stop(self, *_: object) -> None:
        self.stops += 1
        self._wake.set()

    def note_broken(self) -> None:
        """Notify the main thread that another thread ended unasked."""
        self.broken = True
        self._wake.set()

    def start(self, name: str, argv: list[str], env: dict[str, str] | None = None, cwd: Path | None = None) -> Child:
        """Start a child."""
        child = Child(name, argv, env, cwd)
        self._children[child.pid] = child
        return child

    def reap(self) -> None:
        """Collect every child that ended."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid in self._children:
                self._children[pid].ended(status)

    def wait_until(self, done: Callable[[], bool], seconds: float | None = None) -> bool:
        """Reap until `done()` or the time is up; return whether it is done."""
        deadline = None if seconds is None else time.monotonic() + seconds
        while True:
            self._wake.clear()
            self.reap()
            if done():
                return True
            left = 3600.0 if deadline is None else deadline - time.monotonic()
            if left <= 0:
                return False
            self._wake.wait(min(left, 3600.0))
