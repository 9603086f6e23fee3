"""Runs git."""

import subprocess
from pathlib import Path

from torchrelay.core import shell


def run_git(arguments: list[str], folder: Path) -> "subprocess.CompletedProcess[str]":
    """Run git in a folder; a git that is not there is one that fails."""
    try:
        return shell.run(["git", "-C", str(folder), *arguments], timeout=60, check=False)
    except shell.CommandFailed as error:  # git is not installed, or hangs on a broken file system
        return subprocess.CompletedProcess(arguments, error.code, "", error.stderr)
