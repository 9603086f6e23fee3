"""CPU and memory limits out of cgroup v1 and v2 trees."""

from pathlib import Path

import pytest

from torchrelay_runtime.limits import Limits, cpu_limit, memory_limit


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content + "\n", encoding="ascii")
    return root


@pytest.mark.parametrize(
    ("files", "cpu"),
    [
        ({"cpu.max": "50000 100000"}, 0.5),
        ({"cpu.max": "250000 100000"}, 2.5),
        ({"cpu.max": "max 100000"}, 8.0),
        ({"cpu.max": "1600000 100000"}, 8.0),
        ({"cpu/cpu.cfs_quota_us": "150000", "cpu/cpu.cfs_period_us": "100000"}, 1.5),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 8.0),
        ({}, 8.0),
    ],
    ids=["v2", "v2 above one", "v2 unlimited", "v2 above the cores", "v1", "v1 unlimited", "no cgroup"],
)
def test_cpu_limit(tmp_path: Path, files: dict[str, str], cpu: float) -> None:
    assert cpu_limit(tree(tmp_path, files), cores=8) == cpu


@pytest.mark.parametrize(
    ("files", "memory"),
    [
        ({"memory.max": "2147483648"}, 2 << 30),
        ({"memory.max": "max"}, None),
        ({"memory/memory.limit_in_bytes": "1073741824"}, 1 << 30),
        ({"memory/memory.limit_in_bytes": "9223372036854771712"}, None),
        ({}, None),
    ],
    ids=["v2", "v2 unlimited", "v1", "v1 unlimited", "no cgroup"],
)
def test_memory_limit(tmp_path: Path, files: dict[str, str], memory: int | None) -> None:
    assert memory_limit(tree(tmp_path, files)) == memory


@pytest.mark.parametrize(("cpu", "threads"), [(0.25, 1), (1.0, 1), (1.5, 2), (4.0, 4)])
def test_threads_are_whole_and_at_least_one(cpu: float, threads: int) -> None:
    assert Limits(cpu, None).threads == threads
