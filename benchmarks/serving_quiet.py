"""Measures how much CPU time other processes take: figures from a busy machine are worthless, and the figures do not show it."""

import os
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil

QUIET = 0.1
LOOK_S = 1.0


@dataclass
class Share:
    """`others`: the share (0-1) of these CPUs' time that other processes took; `measured_s`: the servers' CPU seconds."""

    others: float = 0.0
    measured_s: float = 0.0


def busy_seconds(cpus: list[int]) -> float:
    """Return the seconds that these CPUs have been busy since the machine started."""
    every = psutil.cpu_times(percpu=True)
    return sum(sum(every[cpu]) - every[cpu].idle - every[cpu].iowait - every[cpu].guest - every[cpu].guest_nice for cpu in cpus)


def children_seconds() -> float:
    """Return the CPU seconds of this process's ended children."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@contextmanager
def watched(cpus: list[int]) -> Iterator[Share]:
    """Measure what other processes take. The caller sets `measured_s`; the CPU time of ended children is subtracted too."""
    share, began, busy, children = Share(), time.monotonic(), busy_seconds(cpus), children_seconds()
    yield share
    took = busy_seconds(cpus) - busy - (children_seconds() - children) - share.measured_s
    share.others = max(0.0, took / ((time.monotonic() - began) * len(cpus)))


def wait_quiet(cpus: list[int], patience_s: float) -> bool:
    """Wait until others take less than `QUIET` of the CPUs; return False when the time is over."""
    deadline = time.monotonic() + patience_s
    while True:
        busy = busy_seconds(cpus)
        time.sleep(LOOK_S)
        if busy_seconds(cpus) - busy < QUIET * LOOK_S * len(cpus):
            return True
        if time.monotonic() > deadline:
            return False


def same_priority(pid: int) -> None:
    """Give a container's processes the priority of this process, as the peers have; otherwise they have the daemon's."""
    for one in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
        for thread in one.threads():
            if os.getpriority(os.PRIO_PROCESS, thread.id) != os.getpriority(os.PRIO_PROCESS, 0):
                os.setpriority(os.PRIO_PROCESS, thread.id, os.getpriority(os.PRIO_PROCESS, 0))
