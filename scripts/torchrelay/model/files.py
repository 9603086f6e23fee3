"""The files that a model directory names: found inside of it, readable, and real (no Git LFS pointers)."""

import stat
from collections.abc import Iterator
from pathlib import Path

LFS_POINTER = b"version https://git-lfs.github.com/spec/"
MAX_FILES = 20_000  # of one folder in extra_files


def inside(model_dir: Path, relative: str) -> Path | str:
    """The path of a file or folder in the model directory, or what is wrong with it, in words."""
    path = model_dir / relative
    try:
        target = path.resolve(strict=True)
        if not target.is_relative_to(model_dir.resolve()):
            return "leads out of the model directory by a symbolic link"
        mode = target.stat().st_mode
    except FileNotFoundError:
        return "is a symbolic link to nothing" if path.is_symlink() else "does not exist"
    except (OSError, RuntimeError, ValueError) as error:
        return f"cannot be read: {getattr(error, 'strerror', None) or 'symbolic links in a circle'}"
    return path if stat.S_ISREG(mode) or stat.S_ISDIR(mode) else "is neither a file nor a folder"


def regular(model_dir: Path, relative: str) -> Path | str:
    """The path of a readable file in the model directory, or what is wrong with it, in words."""
    path = inside(model_dir, relative)
    if isinstance(path, str):
        return path
    return content_problem(path) or path


def content_problem(path: Path) -> str | None:
    """Why the content of a file cannot be used, in words; None when it can."""
    if path.is_dir():
        return "is a folder, not a file"
    try:
        with path.open("rb") as stream:
            head = stream.read(len(LFS_POINTER))
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    if head == LFS_POINTER:
        return "is a Git LFS pointer, not the file itself (run `git lfs pull`)"
    return None


def files_below(model_dir: Path, relative: str) -> Iterator[tuple[str, str | None]]:
    """Each file of a folder, relative to the model directory, with what is wrong with it; byte code is left out."""
    for count, path in enumerate(sorted((model_dir / relative).rglob("*"))):
        if count >= MAX_FILES:
            yield relative, f"holds more than {MAX_FILES} files"
            return
        if "__pycache__" in path.parts or (path.is_dir() and not path.is_symlink()):
            continue
        name = path.relative_to(model_dir).as_posix()
        found = inside(model_dir, name)
        if isinstance(found, str):
            yield name, found
        elif path.is_dir():
            yield name, "is a symbolic link to a folder"
        else:
            yield name, content_problem(path)
