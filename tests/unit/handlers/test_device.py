"""Devices, threads, and which errors end a worker."""

import os
from pathlib import Path

import pytest
import torch

from torchrelay_handlers.network import device


def test_cpu_is_cpu_and_auto_is_cpu_without_an_assigned_gpu() -> None:
    assert device.choose("cpu", 3) == torch.device("cpu")
    assert device.choose("auto", None) == torch.device("cpu")


def test_a_declared_gpu_that_is_missing_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RuntimeError, match="sees no GPU"):
        device.choose("gpu", 0)
    with pytest.raises(RuntimeError, match="use cpu, gpu or mps"):
        device.choose("tpu")


def test_the_assigned_gpu_is_taken_when_it_exists(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert device.choose("gpu", 1) == torch.device("cuda", 1)
    assert device.choose("gpu", None) == torch.device("cuda", 0)
    assert device.choose("auto", 1) == torch.device("cuda", 1)
    with pytest.raises(RuntimeError, match="torch sees 2"):
        device.choose("gpu", 2)


@pytest.mark.parametrize(("text", "cpus"), [("150000 100000", 1.5), ("max 100000", 4.0), ("nonsense", 4.0), (None, 4.0)])
def test_the_containers_quota_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, cpus: float) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    if text is not None:
        (tmp_path / "cpu.max").write_text(text)
    assert device.available_cpus(tmp_path / "cpu.max", tmp_path) == cpus


def test_the_older_cgroups_quota_counts_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    (tmp_path / "cpu.cfs_quota_us").write_text("200000")
    (tmp_path / "cpu.cfs_period_us").write_text("100000")
    assert device.available_cpus(tmp_path / "missing", tmp_path) == 2.0


@pytest.mark.parametrize(
    ("variable", "workers", "threads"), [("", 1, 4), ("", 3, 1), ("", 8, 1), ("2", 8, 2), ("x", 2, 2), ("0", 2, 2)]
)
def test_workers_share_the_cpus(monkeypatch: pytest.MonkeyPatch, variable: str, workers: int, threads: int) -> None:
    set_to: list[int] = []
    monkeypatch.setattr(device, "available_cpus", lambda: 4.0)
    monkeypatch.setattr(torch, "set_num_threads", set_to.append)
    monkeypatch.setenv("OMP_NUM_THREADS", variable)
    assert device.set_threads(workers) == threads
    assert set_to == [threads]


@pytest.mark.parametrize(
    ("error", "sticky"),
    [
        (RuntimeError("CUDA error: device-side assert triggered"), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), True),
        (torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), False),
        (RuntimeError("CUDA error: out of memory"), False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("CUDA error: in a message of the author's"), False),
    ],
)
def test_only_errors_that_outlive_their_call_end_the_worker(error: Exception, sticky: bool) -> None:
    assert device.is_sticky(error) is sticky
