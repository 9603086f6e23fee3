"""A git checkout: the files that changed between two commits, the symbolic links, and the model folders.

git separates names with zero bytes and no shell sees them; a name that is not UTF-8 keeps its bytes as surrogates.
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

COMMIT = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")
NO_COMMIT = re.compile(r"0{40}(0{24})?")
_LINK_MODE = b"120000"


@dataclass(frozen=True)
class Checkout:
    """A folder and the top of its git repository; `top` is None if the folder is not in a repository.

    Paths are relative to `top` (outside git, to the folder) and use / as separator; "" is `top` itself.
    """

    root: Path
    top: Path | None

    @staticmethod
    def at(root: Path) -> "Checkout":
        """Find the repository of a folder. Raises SystemRefused if git refuses to read it."""
        process = git_bytes(["rev-parse", "--show-cdup"], root)
        if b"dubious ownership" in process.stderr:
            message = f"git does not read the repository at {printable(str(root))}: it belongs to another user"
            raise SystemRefused(message, "run `git config --global --add safe.directory '*'`")
        up = os.fsdecode(process.stdout).removesuffix("\n")
        return Checkout(root, None if process.returncode else (root / up).resolve())

    def path(self, folder: str) -> str | None:
        """Return the real path of a folder (relative to the root), with all links followed; None if it is outside."""
        return self._relative(Path(os.path.realpath(self.root / folder)))

    def unresolved_path(self, folder: str) -> str:
        """Return the path of a folder (relative to the root) without following the links in it."""
        return "/".join(part for part in ((self.path(".") or ""), folder) if part not in ("", "."))

    def tracked(self) -> "Tracked":
        """Return the tracked models and links below the root; outside git, the models that exist there."""
        if self.top is None:
            return Tracked(sorted(_models_below(self.root)), {})
        listing = _git(self.root, "ls-files", "-s", "-z")
        if listing is None:
            raise SystemRefused(f"git cannot list the files of {printable(str(self.root))}", "run `git status` there to see why")
        models, links = [], {}
        for row in listing.split(b"\0"):
            mode, _, name = row.partition(b"\t")
            path = PurePosixPath(os.fsdecode(name))
            if mode.startswith(_LINK_MODE):
                link = self._relative(Path(os.path.realpath(self.root / path.parent)) / path.name)
                destination = self.path(str(path))
                if link is not None and destination is not None:
                    links[link] = destination
            if path.name == FILE:
                models.append(str(path.parent))
        return Tracked(sorted(models), links)

    def commit(self, name: str) -> str | None:
        """Return the commit that a branch, tag or hash names; None if this clone does not have it."""
        if self.top is None:
            return None
        output = _git(self.root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
        text = "" if output is None else os.fsdecode(output).strip()
        return text if COMMIT.fullmatch(text) else None

    def shallow(self) -> bool:
        """Return whether this is a shallow clone: one with a truncated history."""
        return _git(self.root, "rev-parse", "--is-shallow-repository") == b"true\n"

    def fork_point(self, base: str) -> str | None:
        """Return the commit at which HEAD branched off `base`; None if this clone does not have it."""
        output = _git(self.root, "merge-base", "--end-of-options", base, "HEAD")
        return None if output is None else os.fsdecode(output).strip()

    def changed(self, before: str) -> list[str] | None:
        """Return every path that differs between a commit and HEAD; a renamed file appears under both names.

        None if git fails.
        """
        output = _git(self.root, "diff-tree", "-r", "-z", "--name-only", "--no-renames", "--end-of-options", before, "HEAD")
        return None if output is None else [os.fsdecode(name) for name in output.split(b"\0") if name]

    def _relative(self, path: Path) -> str | None:
        top = (self.top or self.root).resolve()
        if not path.is_relative_to(top):
            return None
        return "" if path == top else path.relative_to(top).as_posix()


@dataclass(frozen=True)
class Tracked:
    """`models`: folders with a model.yaml, relative to the root. `links`: every symbolic link and its destination."""

    models: list[str]
    links: dict[str, str]


def _models_below(root: Path) -> Iterator[str]:
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        if FILE in files:
            yield Path(folder).relative_to(root).as_posix()


def _git(folder: Path, *arguments: str) -> bytes | None:
    """Return the output of git; None if git fails or is missing."""
    process = git_bytes(list(arguments), folder)
    return process.stdout if process.returncode == 0 else None
