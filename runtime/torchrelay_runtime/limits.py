"""Reads the CPU and memory limits of the container from cgroup v1 or v2, so that threads and heaps fit them, not the host."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
UNLIMITED = 1 << 60  # cgroup v1 expresses "no limit" with a number near 2^63
MIB = 1 << 20


@dataclass(frozen=True)
class Limits:
    """`cpu` in cores (0.5 is half a core), `memory` in bytes or None for no limit."""

    cpu: float
    memory: int | None

    @property
    def threads(self) -> int:
        """Whole threads that `cpu` can keep busy, at least one."""
        return max(1, math.ceil(self.cpu))


def read_number(path: Path) -> int | None:
    """Return the number that `path` holds, None when it is absent or says "max"."""
    try:
        return int(path.read_text(encoding="ascii").split()[0])
    except (OSError, ValueError, IndexError):
        return None


def cpu_limit(cgroup: Path, cores: int) -> float:
    """Return the CPU limit in cores: quota / period, or `cores` where there is no quota or it is larger."""
    quota, period = None, None
    v2 = cgroup / "cpu.max"
    if v2.is_file():
        words = v2.read_text(encoding="ascii").split()
        if len(words) == 2 and words[0] != "max":
            quota, period = int(words[0]), int(words[1])
    else:
        quota = read_number(cgroup / "cpu" / "cpu.cfs_quota_us")
        period = read_number(cgroup / "cpu" / "cpu.cfs_period_us")
    if not quota or not period or quota < 0:
        return float(cores)
    return min(quota / period, float(cores))


def memory_limit(cgroup: Path) -> int | None:
    """Return the memory limit in bytes, None where there is none."""
    limit = read_number(cgroup / "memory.max")
    if limit is None:
        limit = read_number(cgroup / "memory" / "memory.limit_in_bytes")
    return limit if limit is not None and limit < UNLIMITED else None


def usable_cores() -> int:
    """Return the number of cores this process may run on (cpusets count)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def read_limits() -> Limits:
    """Return the limits of the running container, or of the machine outside one."""
    return Limits(cpu=cpu_limit(CGROUP, usable_cores()), memory=memory_limit(CGROUP))
