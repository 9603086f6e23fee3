"""The files that a model directory names: inside the directory, readable, and real (no Git LFS pointers)."""

import stat
from collections.abc import Iterator
from pathlib import Path

from torchrelay.core.errors import ModelInvalid, Problem

LFS_POINTER = b"version https://git-lfs.github.com/spec/"
MAX_FILES = 20_000  # of one folder in extra_files


class UnusableFile(ValueError):
    """A file cannot be used; the message is the predicate of a sentence about it, such as `does not exist`."""


def inside(model_dir: Path, relative: str) -> Path:
    """Return the path of a file or folder in the model directory. Raises UnusableFile."""
    path = model_dir / relative
    try:
        target = path.resolve(strict=True)
        if not target.is_relative_to(model_dir.resolve()):
            raise UnusableFile("leads out of the model directory by a symbolic link")
        refuse_git_folder(target.relative_to(model_dir.resolve()))
        mode = target.stat().st_mode
    except FileNotFoundError as error:
        raise UnusableFile("is a symbolic link to nothing" if path.is_symlink() else "does not exist") from error
    except UnusableFile:
        raise
    except (OSError, RuntimeError, ValueError) as error:
        raise UnusableFile(f"cannot be read: {getattr(error, 'strerror', None) or 'symbolic links in a circle'}") from error
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise UnusableFile("is neither a file nor a folder")
    return path


def refuse_git_folder(path: Path) -> None:
    """Check that a real path is not in git's own folder, whose files may contain credentials. Raises UnusableFile."""
    if any(part.casefold() == ".git" for part in path.parts):
        raise UnusableFile("is in git's own folder")


def regular(model_dir: Path, relative: str) -> Path:
    """Return the path of a readable file in the model directory. Raises UnusableFile."""
    path = inside(model_dir, relative)
    require_content(path)
    return path


def require_content(path: Path) -> None:
    """Check that a path is a readable file and not a Git LFS pointer. Raises UnusableFile."""
    if path.is_dir():
        raise UnusableFile("is a folder, not a file")
    try:
        with path.open("rb") as stream:
            head = stream.read(len(LFS_POINTER))
    except OSError as error:
        raise UnusableFile(f"cannot be read: {error.strerror}") from error
    if head == LFS_POINTER:
        raise UnusableFile("is a Git LFS pointer, not the file itself (run `git lfs pull`)")


def named_file(model_dir: Path, name: str) -> Path:
    """Return the path of a configuration file. Raises ModelInvalid when it is a link out of the model directory."""
    path = model_dir / name
    if path.is_symlink() and path.exists():
        try:
            inside(model_dir, name)
        except UnusableFile as error:
            raise ModelInvalid([Problem(name, None, "", str(error), "put the file itself there")]) from error
    return path


def files_below(model_dir: Path, relative: str) -> Iterator[tuple[str, str | None]]:
    """Yield each file of a folder, relative to the model directory, with its problem; byte code is left out."""
    for count, path in enumerate(sorted((model_dir / relative).rglob("*"))):
        if count >= MAX_FILES:
            yield relative, f"contains more than {MAX_FILES} files"
            return
        if "__pycache__" in path.parts or (path.is_dir() and not path.is_symlink()):
            continue
        name = path.relative_to(model_dir).as_posix()
        try:
            if inside(model_dir, name).is_dir():
                raise UnusableFile("is a symbolic link to a folder")
            require_content(path)
        except UnusableFile as error:
            yield name, str(error)
        else:
            yield name, None
