"""The version of a model that declares none: the git commit that it lies in."""

import subprocess
from collections.abc import Callable
from pathlib import Path

from torchrelay.core.errors import ModelInvalid, Problem
from torchrelay.core.git import run_git
from torchrelay.core.text import printable
from torchrelay.core.workspace import STATE_DIR
from torchrelay.model.model import FILE, Model
from torchrelay.model.weights_lock import NAME as LOCK_NAME

OUTSIDE_GIT = "1.0"

Git = Callable[[list[str], Path], "subprocess.CompletedProcess[str]"]


def resolved_version(model: Model, model_dir: Path, git: Git = run_git) -> str:
    """The declared version; else the commit, 12 hexadecimal digits, with `-dirty` when the directory differs from it.

    Outside of a git repository, or in one without a commit, `1.0`.

    Raises:
        ModelInvalid: there is a repository and git refuses to read it, as it belongs to another user.
    """
    if model.version is not None:
        return model.version
    commit = git(["rev-parse", "--short=12", "--verify", "HEAD"], model_dir)
    if commit.returncode != 0:
        if "dubious ownership" in commit.stderr:
            message = f"{printable(str(model_dir))} lies in a git repository of another user, which git does not read"
            fix = "run `git config --global --add safe.directory '*'`, or write `version:`"
            raise ModelInvalid([Problem(FILE, None, "version", message, fix)])
        return OUTSIDE_GIT
    # --short=12 gives more than 12 digits where 12 are ambiguous: as many for everybody, so that tags compare equal
    version = commit.stdout.strip()[:12]
    changes = git(["status", "--porcelain", "--untracked-files=normal", "--", ".", f":(exclude){STATE_DIR}"], model_dir)
    # A weights.lock that the first fetch has just written changes nothing about the model; a known one that differs does.
    lines = [
        line
        for line in changes.stdout.splitlines()
        if not (line.startswith("??") and line.rpartition("/")[2].removeprefix("?? ") == LOCK_NAME)
    ]
    return f"{version}-dirty" if changes.returncode != 0 or lines else version
