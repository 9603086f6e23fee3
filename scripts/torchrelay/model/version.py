"""The version of a model that declares none: its git commit."""

import subprocess
from collections.abc import Callable
from pathlib import Path

from torchrelay.core.errors import ModelInvalid, Problem
from torchrelay.core.git import run_git
from torchrelay.core.text import printable
from torchrelay.core.workspace import STATE_DIR
from torchrelay.model.model import FILE, Model
from torchrelay.model.weights_lock import LOCK_NAME

OUTSIDE_GIT = "1.0"

Git = Callable[[list[str], Path], "subprocess.CompletedProcess[str]"]


def resolved_version(model: Model, model_dir: Path, git: Git = run_git) -> str:
    """Return the declared version, otherwise the commit: 12 hexadecimal digits, with `-dirty` when the directory differs from it.

    Outside of a git repository, or in one without a commit, `1.0`.

    Raises:
        ModelInvalid: git refuses to read the repository because it belongs to another user.
    """
    if model.version is not None:
        return model.version
    commit = git(["rev-parse", "--short=12", "--verify", "HEAD"], model_dir)
    if commit.returncode != 0:
        if "dubious ownership" in commit.stderr:
            message = f"{printable(str(model_dir))} is in a git repository of another user, which git refuses to read"
            fix = "run `git config --global --add safe.directory '*'`, or write `version:`"
            raise ModelInvalid([Problem(FILE, None, "version", message, fix)])
        return OUTSIDE_GIT
    # --short=12 prints more than 12 digits where 12 are ambiguous; tags must be equal in every clone
    version = commit.stdout.strip()[:12]
    changes = git(["status", "--porcelain", "--untracked-files=normal", "--", ".", f":(exclude){STATE_DIR}"], model_dir)
    # An untracked weights.lock, written by the first fetch, does not change the model; a changed tracked one does.
    lines = [
        line
        for line in changes.stdout.splitlines()
        if not (line.startswith("??") and line.rpartition("/")[2].removeprefix("?? ") == LOCK_NAME)
    ]
    return f"{version}-dirty" if changes.returncode != 0 or lines else version
