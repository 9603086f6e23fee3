"""Archives with source files (model-config.yaml's `system.extraFiles`), read completely and treated as untrusted."""

import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

MAX_FILES = 10_000
MAX_BYTES = 256 << 20  # held in memory; larger data goes into extra_files

_UNREADABLE = (
    OSError,
    EOFError,
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    NotImplementedError,
    RuntimeError,
)


def read(path: Path) -> dict[str, bytes]:
    """Return the regular files of a tar (any compression) or zip file by name; folders and byte code are left out.

    Raises:
        ValueError: it is not an archive, contains links, devices or outside paths, or is too large.
    """
    files: dict[str, bytes] = {}
    left = MAX_BYTES
    try:
        # A plain tar that ends with a zip file is taken for a zip file, so tar is tried first.
        for name, data in _zip(path) if not tarfile.is_tarfile(path) and zipfile.is_zipfile(path) else _tar(path):
            inner = PurePosixPath(name)
            if inner.is_absolute() or ".." in inner.parts or "\\" in name or not name.isprintable() or not inner.parts:
                raise ValueError(f"holds {name[:100]!r}, which is not a path below a folder")
            content = data.read(left + 1)
            left -= len(content)
            if left < 0 or len(files) >= MAX_FILES:
                raise ValueError(f"holds more than {MAX_FILES} files or {MAX_BYTES >> 20} MB; list large files in extra_files")
            if "__pycache__" not in inner.parts:
                files[str(inner)] = content
    except _UNREADABLE as error:
        raise ValueError(f"is not a readable tar or zip file: {error}") from error
    if not files:
        raise ValueError("holds no file")
    return files


def _tar(path: Path) -> Iterator[tuple[str, IO[bytes]]]:
    with tarfile.open(path) as archive:
        for member in archive:
            data = archive.extractfile(member) if member.isreg() else None
            if data is not None:
                yield member.name, data
            elif not member.isdir():
                raise ValueError(f"holds {member.name[:100]!r}, which is a link or a device")


def _zip(path: Path) -> Iterator[tuple[str, IO[bytes]]]:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if stat.S_ISLNK(info.external_attr >> 16):
                raise ValueError(f"holds {info.filename[:100]!r}, which is a link")
            if not info.is_dir():
                with archive.open(info) as data:
                    yield info.filename, data
