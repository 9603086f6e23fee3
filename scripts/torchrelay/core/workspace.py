"""The state of one model directory: files and digests under `.torchrelay/`, one relay at a time."""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torchrelay.core.errors import ModelInvalid, Problem
from torchrelay.core.git import git_bytes
from torchrelay.core.locks import exclusive
from torchrelay.core.log import log
from torchrelay.core.machine_mark import is_marked, mark_of
from torchrelay.core.text import first_line, printable

STATE_DIR = ".torchrelay"
LOCK = "lock"
MARK = "machine"
UNFINISHED = re.compile(r"\..+\.[a-z0-9_]{8}\.tmp")  # the temporary names of atomic_write: tempfile uses eight characters


def require_directory(model_dir: Path) -> None:
    """Raise ModelInvalid unless the model directory is there."""
    if not model_dir.is_dir():
        what = "is not a directory" if model_dir.exists() else "does not exist"
        raise ModelInvalid([Problem(printable(str(model_dir)), None, "", what, "name a directory that holds model.yaml")])


class Workspace:
    """Paths of the files that stages pass to each other; the folder ignores itself in git."""

    def __init__(self, model_dir: Path) -> None:
        self.model_dir = model_dir
        self.root = model_dir / STATE_DIR
        self.archive_record = self.root / "archive.json"
        self.image_record = self.root / "image.json"
        self.verdict = self.root / "verdict.json"
        self.push_record = self.root / "push.json"
        self.deployments = self.root / "deployments"
        self.stages = self.root / "stages.json"
        self.answers = self.root / "answers.json"
        self.diff = self.root / "diff.json"
        self.error = self.root / "error.json"

    def reject_foreign(self) -> None:
        """Reject a `.torchrelay/` that was committed: only state written by Torchrelay itself is trusted.

        Raises ModelInvalid when it is a symbolic link, or git tracks anything in it.
        """
        if self.root.is_symlink():
            fix = "remove it so that Torchrelay can create the folder itself"
            raise ModelInvalid([Problem(STATE_DIR, None, "", "is a symbolic link", fix)])
        if not self.root.exists():
            return
        here = self.model_dir.resolve()
        if not any((folder / ".git").exists() for folder in (here, *here.parents)):
            return
        # Whoever owns the files, only git's index is read; names differ in case where the file system ignores case.
        tracked = git_bytes(["ls-files", "-z", "--", f":(icase){STATE_DIR}"], self.model_dir, any_owner=True)
        if tracked.returncode != 0:
            reason = first_line(tracked.stderr.decode(errors="replace"))
            fix = f"make `git status` work in the model directory, or delete {STATE_DIR}"
            raise ModelInvalid([Problem(STATE_DIR, None, "", f"git cannot say whether it is committed: {printable(reason)}", fix)])
        if tracked.stdout:
            fix = f"run `git rm -r --cached {STATE_DIR}`, and commit that"
            raise ModelInvalid([Problem(STATE_DIR, None, "", "is committed to git; state from the repository is not trusted", fix)])

    def clear(self) -> None:
        """Remove everything except the lock, which the caller holds."""
        for path in self.root.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.name not in (LOCK, f"{LOCK}.holder"):
                path.unlink()
        self._mark()
        self.ensure()

    def ensure(self) -> None:
        """Create the folder, with a .gitignore that hides all of it. Raises ModelInvalid when it is a symbolic link."""
        if self.root.is_symlink():
            self.reject_foreign()
        try:
            self.root.mkdir()
        except FileExistsError:
            if not self.root.is_dir():
                raise
        else:
            self._mark()
        ignore = self.root / ".gitignore"
        if not ignore.exists():
            ignore.write_text("*\n")

    def drop_foreign(self) -> None:
        """Remove the content of a folder that this machine did not create: a bundle's state counts only where it was written.

        The caller holds the lock.
        """
        if not is_marked(self.root, self.root / MARK):
            log.warning("%s: another machine wrote it: it is not trusted, and removed", printable(str(self.root)))
            self.clear()

    def _mark(self) -> None:
        (self.root / MARK).write_text(mark_of(self.root))

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the directory for this process; the kernel frees it when the process ends, however that is.

        Raises Busy when another process holds it, ModelInvalid as `reject_foreign` does, and when there is no such directory.
        """
        require_directory(self.model_dir)
        self.reject_foreign()
        self.ensure()
        with exclusive(self.root / LOCK, f"{self.model_dir}: another relay (process {{}}) is working on this directory"):
            self._sweep()
            yield

    def _sweep(self) -> None:
        """Remove the temporary files of a killed run; no other process writes here while the lock is held."""
        for folder in (self.model_dir, self.root, self.deployments):
            for temporary in folder.glob(".*.tmp"):
                if UNFINISHED.fullmatch(temporary.name):
                    temporary.unlink(missing_ok=True)
