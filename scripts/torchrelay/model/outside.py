"""Files outside of the checkout: never read in a workflow, elsewhere only with --allow-outside.

model.yaml comes from whoever opens a pull request, and the archive is handed on as an artifact: without this rule its `weights`
could name any file of the runner. A file in git's own folder is refused too: its configuration may contain a token.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from torchrelay.core import runner
from torchrelay.model.files import UnusableFile, refuse_git_folder


@dataclass
class _Permission:
    """Whether this call of the command may read files outside of the checkout."""

    option: bool = False
    """--allow-outside; a workflow ignores it."""
    user: bool = False
    """The paths come from the command line and not from model.yaml."""


PERMISSION = _Permission()


class OutsideFile(UnusableFile):
    """A file is outside of the checkout; `fix` says how to make it usable."""

    def __init__(self, message: str, fix: str) -> None:
        super().__init__(message)
        self.fix = fix


@contextmanager
def named_by_user() -> Iterator[None]:
    """Allow any path within the block, because the user wrote all of them on the command line."""
    before, PERMISSION.user = PERMISSION.user, True
    try:
        yield
    finally:
        PERMISSION.user = before


def checkout(model_dir: Path) -> Path:
    """Return the top of the git checkout with the model directory; the directory itself when it is in none.

    git is not asked: the answer could come from the repository's own configuration (`core.worktree`).
    """
    folder = Path(os.path.realpath(model_dir))
    return next((one for one in (folder, *folder.parents) if (one / ".git").exists()), folder)


def require_allowed(path: Path, model_dir: Path) -> None:
    """Check a file by its real path. Raises OutsideFile, or UnusableFile for one in git's own folder."""
    if PERMISSION.user:
        return
    top, target = checkout(model_dir), Path(os.path.realpath(path))
    if target.is_relative_to(top):
        refuse_git_folder(target.relative_to(top))
    elif runner.on_github():
        raise OutsideFile("is outside of the checkout", "put it into the repository, or on s3://, https:// or hf://")
    elif not PERMISSION.option:
        raise OutsideFile(f"is outside of {top}", "move it there, or run again with --allow-outside if you trust this model.yaml")
