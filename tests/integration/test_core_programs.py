"""Real git on repositories that bring their own programs, and which verbs a real process loads."""

import subprocess
import sys
from pathlib import Path

import pytest

from torchrelay.core.git import git_bytes, run_git
from torchrelay.core.paths import ROOT

ENVIRONMENT = {"PYTHONPATH": str(ROOT / "scripts")}
LOADED = """
import sys
from typer.testing import CliRunner
from torchrelay.cli import main
CliRunner().invoke(main.app, sys.argv[1:])
print(*sorted(name.rpartition(".")[2] for name in sys.modules if name.startswith("torchrelay.cli.verbs.")))
"""


@pytest.mark.parametrize("setting", ["core.fsmonitor", "core.hooksPath"])
def test_a_repositorys_own_programs_do_not_run(tmp_path: Path, setting: str) -> None:
    """The control: plain git runs the file system monitor that a repository names."""
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    mark = tmp_path / "ran"
    program = tmp_path / "hooks" / "fsmonitor"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ntouch {mark}\n")
    program.chmod(0o755)
    value = str(program) if setting == "core.fsmonitor" else str(program.parent)
    subprocess.run(["git", "-C", str(tmp_path), "config", setting, value], check=True)
    assert run_git(["status", "--porcelain"], tmp_path).returncode == 0
    assert not mark.exists()
    if setting == "core.fsmonitor":
        subprocess.run(["git", "-C", str(tmp_path), "status"], check=True, capture_output=True)
        assert mark.exists()


def test_a_missing_git_counts_as_one_that_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_bytes(["status"], tmp_path).returncode == 127


@pytest.mark.parametrize(("arguments", "loaded"), [(["--help"], ""), (["check", "--help"], "check"), (["nothing"], "")])
def test_only_the_called_verb_is_loaded(arguments: list[str], loaded: str) -> None:
    command = [sys.executable, "-c", LOADED, *arguments]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == loaded
