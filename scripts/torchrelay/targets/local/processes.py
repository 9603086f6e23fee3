"""Detached processes that outlive the command that started them: started, recognised again, stopped with all their children."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")


@dataclass(frozen=True)
class Process:
    """A process and when it began, in the system's own words: a pid alone may be another program's by now."""

    pid: int
    began: str

    def alive(self) -> bool:
        """Tell whether it still runs."""
        with suppress(ChildProcessError):
            os.waitpid(self.pid, os.WNOHANG)  # our own child would stay as a zombie
        return bool(self.began) and beginning(self.pid) == self.began


def start(argv: list[str], env: dict[str, str], folder: Path, log: Path) -> Process:
    """Start a program in a session of its own, so that Ctrl-C and the end of this terminal do not reach it."""
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
    child.returncode = 0  # it is meant to outlive us: no warning about that, no wait by Popen
    return Process(child.pid, beginning(child.pid))


def stop(process: Process, seconds: float) -> None:
    """Ask it to end, wait, then kill it and whatever descends from it."""
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


def kill(processes: set[Process]) -> None:
    """Kill processes at once and wait until they are gone."""
    for process in processes:
        if process.alive():
            with suppress(ProcessLookupError, PermissionError):
                os.kill(process.pid, signal.SIGKILL)
    deadline = time.monotonic() + 5
    while any(process.alive() for process in processes) and time.monotonic() < deadline:
        time.sleep(0.02)


def beginning(pid: int) -> str:
    """Return when a process began, "" when it does not run (or is a zombie)."""
    if (PROC / "self").exists():
        try:
            fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            return ""
        # A process whose first thread has ended is a zombie while its other threads still hold its sockets.
        ended = fields[0] in ("Z", "X") and len(list((PROC / str(pid)).glob("task/*"))) <= 1
        return "" if ended else fields[19]  # field 22 of proc(5), in ticks since boot
    done = subprocess.run(["ps", "-o", "state=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    state, _, began = done.stdout.strip().partition(" ")
    return "" if done.returncode != 0 or state.startswith("Z") else began.strip()


def descendants(pid: int) -> set[Process]:
    """Return the children of a process, their children and so on."""
    children: dict[int, list[int]] = {}
    for child, parent in _parents():
        children.setdefault(parent, []).append(child)
    found, waiting = set(), [pid]
    while waiting:
        for child in children.get(waiting.pop(), []):
            found.add(Process(child, beginning(child)))
            waiting.append(child)
    return found


def _parents() -> Iterator[tuple[int, int]]:
    """Yield every process and its parent."""
    if not (PROC / "self").exists():
        done = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=False)
        for line in done.stdout.splitlines():
            child, parent = line.split()
            yield int(child), int(parent)
        return
    for entry in PROC.glob("[0-9]*"):
        with suppress(OSError):
            yield int(entry.name), int((entry / "stat").read_text().rpartition(")")[2].split()[1])


def with_state_below(folder: Path) -> set[Process]:
    """Return the processes whose TORCHRELAY_STATE lies below a folder: what a killed supervisor left behind (Linux only)."""
    marker = f"TORCHRELAY_STATE={folder}/".encode()
    found = set()
    for entry in PROC.glob("[0-9]*"):
        with suppress(OSError):
            if any(variable.startswith(marker) for variable in (entry / "environ").read_bytes().split(b"\0")):
                found.add(Process(int(entry.name), beginning(int(entry.name))))
    return found
