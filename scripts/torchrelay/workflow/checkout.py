"""What git says of a checkout: which files changed between two commits, which are links, and where the models lie.

Names come as bytes between zeros and go nowhere near a shell; a name that is no UTF-8 keeps its bytes as surrogates.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from torchrelay.core.errors import SystemRefused
from torchrelay.core.git import git_bytes
from torchrelay.core.text import printable
from torchrelay.model.model import FILE

ZEROS = re.compile(r"0{40}(0{24})?")
_COMMIT = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")
_LINK = b"120000"


@dataclass(frozen=True)
class Checkout:
    """A folder, and the git repository that it lies in; `top` is None outside of one.

    Paths are relative to `top` (outside of git, to the folder), with / between folders, "" for itself.
    """

    root: Path
    top: Path | None

    @staticmethod
    def at(root: Path) -> "Checkout":
        """Find the repository of a folder. Raises SystemRefused when git will not read it."""
        done = git_bytes(["rev-parse", "--show-cdup"], root)
        if b"dubious ownership" in done.stderr:
            what = f"{printable(str(root))} lies in a git repository of another user, which git does not read"
            raise SystemRefused(what, "run `git config --global --add safe.directory '*'`")
        up = os.fsdecode(done.stdout).removesuffix("\n")
        return Checkout(root, None if done.returncode else (root / up).resolve())

    def path(self, folder: str) -> str | None:
        """Return where a folder, relative to the root, really lies, all links followed; None when it is outside."""
        return self._inside(Path(os.path.realpath(self.root / folder)))

    def written(self, folder: str) -> str:
        """Return where a folder, relative to the root, lies by its name: links in it are not followed."""
        return "/".join(part for part in ((self.path(".") or ""), folder) if part not in ("", "."))

    def tracked(self) -> "Tracked":
        """Return the tracked models and links below the root; outside of git, those that are there."""
        if self.top is None:
            return Tracked(sorted(_models_below(self.root)), {})
        listed = _git(self.root, "ls-files", "-s", "-z")
        if listed is None:
            raise SystemRefused(f"git cannot list the files of {printable(str(self.root))}", "run `git status` there to see why")
        models, links = [], {}
        for row in listed.split(b"\0"):
            facts, _, name = row.partition(b"\t")
            path = PurePosixPath(os.fsdecode(name))
            if facts.startswith(_LINK):
                where = self._inside(Path(os.path.realpath(self.root / path.parent)) / path.name)
                target = self.path(str(path))
                if where is not None and target is not None:
                    links[where] = target
            if path.name == FILE:
                models.append(str(path.parent))
        return Tracked(sorted(models), links)

    def commit(self, name: str) -> str | None:
        """Return the commit that a name stands for, None when this clone does not have it."""
        if self.top is None:
            return None
        found = _git(self.root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
        text = "" if found is None else os.fsdecode(found).strip()
        return text if _COMMIT.fullmatch(text) else None

    def shallow(self) -> bool:
        """Tell whether the history was cut off when this clone was made."""
        return _git(self.root, "rev-parse", "--is-shallow-repository") == b"true\n"

    def fork_point(self, base: str) -> str | None:
        """Return the commit where HEAD left `base`, None when there is none in this clone."""
        found = _git(self.root, "merge-base", "--end-of-options", base, "HEAD")
        return None if found is None else os.fsdecode(found).strip()

    def changed(self, before: str) -> list[str] | None:
        """Return every path that differs between a commit and HEAD: a renamed file is there under both names.

        None when git cannot tell.
        """
        found = _git(self.root, "diff-tree", "-r", "-z", "--name-only", "--no-renames", "--end-of-options", before, "HEAD")
        return None if found is None else [os.fsdecode(name) for name in found.split(b"\0") if name]

    def _inside(self, path: Path) -> str | None:
        top = (self.top or self.root).resolve()
        if not path.is_relative_to(top):
            return None
        return "" if path == top else path.relative_to(top).as_posix()


@dataclass(frozen=True)
class Tracked:
    """`models`: folders with a model.yaml, relative to the root. `links`: where each symbolic link lies, and where it leads."""

    models: list[str]
    links: dict[str, str]


def _models_below(root: Path) -> Iterator[str]:
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        if FILE in files:
            yield Path(folder).relative_to(root).as_posix()


def _git(folder: Path, *arguments: str) -> bytes | None:
    """Return what git prints, None when it fails or is missing."""
    done = git_bytes(list(arguments), folder)
    return done.stdout if done.returncode == 0 else None
