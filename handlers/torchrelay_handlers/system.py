"""The `system` part of model-config.yaml: `maxGPUMemory` in MB, and `extraFiles`, archives with source files."""

import os
import stat
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from torchrelay_handlers.problems import nearest

KNOWN = ("maxGPUMemory", "extraFiles")
_MOST_ENTRIES = 10_000
_MOST_BYTES = 2**30


@dataclass(frozen=True, slots=True)
class System:
    """The settings in the `system` part."""

    max_gpu_memory_mb: int | None = None
    extra_files: tuple[str, ...] = ()


def read(config: object) -> System:
    """The `system` part of a parsed model-config.yaml.

    Raises:
        ValueError: a key is unknown, or has a wrong value.
    """
    values = config.get("system") if isinstance(config, Mapping) else None
    if values is None:
        return System()
    if not isinstance(values, Mapping):
        raise ValueError("model-config.yaml: system must hold keys such as maxGPUMemory")  # noqa: TRY004 - the documented one
    for key in values:
        if key not in KNOWN:
            raise ValueError(f"model-config.yaml: system.{key} is not known; {nearest(str(key), KNOWN)}")
    memory, files = values.get("maxGPUMemory"), values.get("extraFiles") or ()
    if memory is not None and (not isinstance(memory, int) or isinstance(memory, bool) or memory <= 0):
        raise ValueError(f"model-config.yaml: system.maxGPUMemory must be a positive number of MB, not {memory!r}")
    names = files.split(",") if isinstance(files, str) else files
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) and name.strip() for name in names):
        raise ValueError(f"model-config.yaml: system.extraFiles must name an archive, or several, not {files!r}")
    return System(memory, tuple(name.strip() for name in names))


def unpack(extra_files: tuple[str, ...], model_dir: Path) -> None:
    """Unpack the archives beside the model file, with their structure; what is there already stays, as from the image's build.

    Where the folder cannot be written (an image's), a temporary one goes onto the import path instead.

    Raises:
        RuntimeError: an archive is missing, damaged, too large, or reaches out of the folder.
    """
    for name in extra_files:
        path = model_dir / name
        if not path.is_file():
            raise RuntimeError(f"system.extraFiles: {name} is not in the model's folder")
        try:
            if all((model_dir / inner).is_file() for inner, _ in _entries(path)):
                continue
            target = model_dir
            if not os.access(model_dir, os.W_OK):
                target = Path(tempfile.mkdtemp(prefix="torchrelay-extra-"))
                sys.path.insert(0, str(target))
            for inner, data in _entries(path):
                _place(target / inner, data)
        except (OSError, EOFError, tarfile.TarError, zipfile.BadZipFile, ValueError) as error:
            raise RuntimeError(f"system.extraFiles: {name}: {error}") from error


def _place(path: Path, data: IO[bytes]) -> None:
    """Write whole or not at all: workers of one model start at the same time, in one folder."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        while block := data.read(2**20):
            file.write(block)
    Path(file.name).chmod(0o644)
    Path(file.name).replace(path)


def _entries(path: Path) -> Iterator[tuple[PurePosixPath, IO[bytes]]]:
    """The regular files of a tar (any compression) or zip file, checked; directories are left out.

    Raises:
        ValueError: an entry is a link or device, reaches out of the folder, or there is too much.
    """
    count = size = 0
    # A plain tar that ends with a zip file is taken for a zip file, so tar is tried first.
    is_zip = not tarfile.is_tarfile(path) and zipfile.is_zipfile(path)
    for name, length, data in _zip(path) if is_zip else _tar(path):
        inner = PurePosixPath(name)
        if inner.is_absolute() or ".." in inner.parts or "\\" in name or "\0" in name or not inner.parts:
            raise ValueError(f"{name!r} reaches out of the folder")
        count, size = count + 1, size + length
        if count > _MOST_ENTRIES or size > _MOST_BYTES:
            raise ValueError(f"holds more than {_MOST_ENTRIES} files or {_MOST_BYTES >> 20} MB")
        yield inner, data


def _tar(path: Path) -> Iterator[tuple[str, int, IO[bytes]]]:
    with tarfile.open(path) as archive:
        for member in archive:
            data = archive.extractfile(member) if member.isreg() else None
            if data is not None:
                yield member.name, member.size, data
            elif not member.isdir():
                raise ValueError(f"{member.name!r} is a link or a device")


def _zip(path: Path) -> Iterator[tuple[str, int, IO[bytes]]]:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if stat.S_ISLNK(info.external_attr >> 16):
                raise ValueError(f"{info.filename!r} is a link or a device")
            if not info.is_dir():
                with closing(archive.open(info)) as data:
                    yield info.filename, info.file_size, data
