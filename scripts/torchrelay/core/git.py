"""The only place that starts git: no hook, pager, file system monitor or prompt of a repository's configuration runs."""

import os
import subprocess
from pathlib import Path

TIMEOUT_S = 60
HARDENING = ("-c", "core.fsmonitor=false", "-c", f"core.hooksPath={os.devnull}", "-c", "core.pager=cat", "--no-pager")
QUIET = {"GIT_TERMINAL_PROMPT": "0", "GIT_OPTIONAL_LOCKS": "0"}


def git_bytes(arguments: list[str], folder: Path, *, any_owner: bool = False) -> "subprocess.CompletedProcess[bytes]":
    """Run git in a folder and return its exit code and output; a git that is missing or hangs counts as one that failed (127).

    `any_owner` also reads a repository that belongs to another user (`safe.directory`), as in a container's checkout.
    """
    trusted = ["-c", "safe.directory=*"] if any_owner else []
    command = ["git", *HARDENING, *trusted, "-C", str(folder), *arguments]
    try:
        return subprocess.run(command, capture_output=True, timeout=TIMEOUT_S, check=False, env={**os.environ, **QUIET})
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(command, 127, b"", str(error).encode())


def run_git(arguments: list[str], folder: Path) -> "subprocess.CompletedProcess[str]":
    """Run git as `git_bytes` does, with its output as text; bytes that are not UTF-8 become surrogates."""
    done = git_bytes(arguments, folder)
    output, errors = (part.decode(errors="surrogateescape") for part in (done.stdout, done.stderr))
    return subprocess.CompletedProcess(done.args, done.returncode, output, errors)
