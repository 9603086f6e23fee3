"""Detached processes that outlive the command that started them: started, recognised again, stopped with all their children."""

import os
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil


@dataclass(frozen=True)
class DetachedProcess:
    """A process and its start, in seconds since boot: its pid alone may belong to another program by now."""

    pid: int
    began: str

    def alive(self) -> bool:
        """Return whether it still runs."""
        with suppress(ChildProcessError):
            os.waitpid(self.pid, os.WNOHANG)  # a child of this process would stay as a zombie
        return bool(self.began) and beginning(self.pid) == self.began


def start(argv: list[str], env: dict[str, str], folder: Path, log: Path) -> DetachedProcess:
    """Start a program in its own session, so that Ctrl-C and the end of this terminal do not reach it."""
    with log.open("wb") as output:
        child = subprocess.Popen(
            argv,
            env=env,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    child.returncode = 0  # it outlives this process on purpose: Popen must neither warn nor wait
    return DetachedProcess(child.pid, beginning(child.pid))


def stop(process: DetachedProcess, seconds: float) -> None:
    """Ask a process to end, wait `seconds`, then kill it and all its descendants."""
    family = descendants(process.pid)
    if process.alive():
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGTERM)
        deadline = time.monotonic() + seconds
        while process.alive() and time.monotonic() < deadline:
            family |= descendants(process.pid)
            time.sleep(0.05)
        if process.alive():
            kill({process})
    kill(family)


def kill(processes: set[DetachedProcess]) -> None:
    """Kill processes at once and wait until they are gone, at most five seconds."""
    for process in processes:
        if process.alive():
            with suppress(ProcessLookupError, PermissionError):
                os.kill(process.pid, signal.SIGKILL)
    deadline = time.monotonic() + 5
    while any(process.alive() for process in processes) and time.monotonic() < deadline:
        time.sleep(0.02)


def beginning(pid: int) -> str:
    """Return when a process began, in seconds since boot, "" when it does not run (or is a zombie).

    The time since boot does not change when the clock is set, as `create_time` does.
    """
    try:
        process = psutil.Process(pid)
        # A process whose first thread has ended is a zombie while its other threads still hold its sockets.
        if process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD) and process.num_threads() <= 1:
            return ""
        return f"{process.create_time() - psutil.boot_time():.2f}"
    except psutil.Error:
        return ""


def descendants(pid: int) -> set[DetachedProcess]:
    """Return the children of a process, their children and so on."""
    try:
        children = psutil.Process(pid).children(recursive=True)
    except psutil.Error:
        return set()
    return {DetachedProcess(child.pid, beginning(child.pid)) for child in children}


def with_state_below(folder: Path) -> set[DetachedProcess]:
    """Return the processes whose TORCHRELAY_STATE is below a folder: those that a killed supervisor left behind."""
    below = set()
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.environ().get("TORCHRELAY_STATE", "").startswith(f"{folder}/"):
                below.add(DetachedProcess(process.pid, beginning(process.pid)))
    return below
