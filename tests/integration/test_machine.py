"""tests/machine.py: processes that outlive `make test-machine`, and `make test-machine-down`, which ends these only."""

import sys
from pathlib import Path

import psutil

from tests import machine
from tests.cluster.cluster import PACKAGES
from torchrelay.core.paths import ROOT

SLEEP = [sys.executable, "-c", "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(600)'])"]


def test_a_background_process_is_found_again_and_ended_with_its_children(tmp_path: Path) -> None:
    process = machine.start_in_background("sleep", SLEEP, tmp_path)
    assert machine.background_process("sleep", tmp_path) == process
    machine.end("sleep", tmp_path)
    assert not machine.is_alive(process)
    assert machine.background_process("sleep", tmp_path) is None
    machine.end("sleep", tmp_path)


def test_a_process_that_reuses_the_id_is_left_alone(tmp_path: Path) -> None:
    process = psutil.Process()
    (tmp_path / "sleep.process").write_text(f"{process.pid} {process.create_time() - 100}")
    machine.end("sleep", tmp_path)
    assert machine.is_alive(process)


def test_nothing_was_started(tmp_path: Path) -> None:
    assert machine.background_process("sleep", tmp_path) is None
    machine.end("sleep", tmp_path)


def test_the_development_container_has_every_package() -> None:
    words = (ROOT / ".devcontainer/Dockerfile").read_text().split()
    assert {*machine.PROGRAMS.values(), *PACKAGES.values()} <= set(words)
