"""Where the network runs: device, threads, memory cap, and recognising a CUDA error that sticks."""

import os
from pathlib import Path

import torch

_CGROUP_QUOTA = Path("/sys/fs/cgroup/cpu.max")
_CGROUP1 = Path("/sys/fs/cgroup/cpu")


def choose(wanted: str = "cpu", gpu_id: int | None = None) -> torch.device:
    """The device for `cpu`, `gpu`, `mps` or `auto`; `gpu_id` is the server's assignment.

    Raises:
        RuntimeError: a GPU is asked for and torch sees none.
    """
    if wanted == "auto":
        wanted = "gpu" if gpu_id is not None and torch.cuda.is_available() else "cpu"
    if wanted == "cpu":
        return torch.device("cpu")
    if wanted == "mps":
        if not torch.backends.mps.is_available():
            raise RuntimeError("device mps is declared, but this machine has no Metal GPU that torch can use")
        return torch.device("mps")
    if wanted not in ("gpu", "cuda"):
        raise RuntimeError(f"device {wanted!r} is not known; use cpu, gpu or mps")
    if not torch.cuda.is_available():
        build = f"torch {torch.__version__}" + ("" if torch.version.cuda else " is a CPU-only build and")
        raise RuntimeError(f"device gpu is declared, but {build} sees no GPU; start the container with a GPU, or declare cpu")
    count = torch.cuda.device_count()
    if gpu_id is not None and not 0 <= gpu_id < count:
        raise RuntimeError(f"GPU {gpu_id} was assigned, but torch sees {count}")
    return torch.device("cuda", gpu_id or 0)


def cap_memory(device: torch.device, megabytes: int | None) -> None:
    """Let this process allocate at most `megabytes` on a CUDA device; more raises torch.cuda.OutOfMemoryError."""
    if megabytes is None or device.type != "cuda":
        return
    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, megabytes * 2**20 / total), device)


def available_cpus(quota: Path = _CGROUP_QUOTA, old: Path = _CGROUP1) -> float:
    """CPUs that this process may use: affinity and the container's quota (cgroup v2, then v1), the smaller one."""
    affinity = getattr(os, "sched_getaffinity", None)
    count = float(len(affinity(0)) if affinity else os.cpu_count() or 1)
    try:
        used, period = quota.read_text().split()
        if used != "max":
            count = min(count, int(used) / int(period))
    except (OSError, ValueError):
        try:
            micros = int((old / "cpu.cfs_quota_us").read_text())
            if micros > 0:
                count = min(count, micros / int((old / "cpu.cfs_period_us").read_text()))
        except (OSError, ValueError):
            pass
    return count


def set_threads(workers: int) -> int:
    """Share the CPUs among the workers: torch's own default (every core of the host) makes them fight.

    OMP_NUM_THREADS, set by whoever runs the server, wins.
    """
    chosen = os.environ.get("OMP_NUM_THREADS", "")
    threads = int(chosen) if chosen.isdigit() and int(chosen) > 0 else max(1, int(available_cpus()) // max(1, workers))
    torch.set_num_threads(threads)
    return threads


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a smaller batch may succeed."""
    return isinstance(error, torch.cuda.OutOfMemoryError | MemoryError) or "out of memory" in str(error).lower()


def is_sticky(error: BaseException) -> bool:
    """Whether every later CUDA call of this process will fail as well (asserts, illegal accesses, lost devices).

    Such a process answers only errors until it ends; running out of memory is not such an error.
    """
    if is_out_of_memory(error) or not isinstance(error, RuntimeError):
        return False
    text = str(error)
    accelerator = getattr(torch, "AcceleratorError", None)
    return (accelerator is not None and isinstance(error, accelerator)) or "CUDA error:" in text
