"""The model archive (.mar): an uncompressed zip in fixed order with fixed times, so the same inputs give the same bytes.

The layout is that of torch-model-archiver 0.12 and TorchServe 0.12: files at the top and `MAR-INF/MANIFEST.json`
(https://github.com/pytorch/serve/blob/v0.12.0/model-archiver/README.md). It is uncompressed because weights do not compress:
torch-model-archiver needs 61 s to deflate 1 GiB of them, an uncompressed zip takes 2 s.
"""

import gzip
import hashlib
import io
import lzma
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, BinaryIO, cast

from torchrelay.core.errors import ArchiveInvalid
from torchrelay.core.files import CHUNK, atomic_write
from torchrelay.core.progress import Task

FIXED_TIME = (1980, 1, 1, 0, 0, 0)  # the earliest time that a zip can contain
LOCAL_HEADER = struct.Struct("<4s5H3I2H")  # APPNOTE.TXT 4.3.7
MAX_ENTRIES = 100_000
MAX_EXPANSION = 4 << 30  # bytes that all entries together may have beyond their compressed size: tensors of zeros, word lists
ENCRYPTED = 1  # flag bit 0: APPNOTE.TXT 4.4.4
UNREADABLE = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    NotImplementedError,
    RuntimeError,
    EOFError,
    IndexError,
    ValueError,
)
"""What zipfile raises about an archive's content."""


@dataclass(frozen=True)
class Entry:
    """One file of an archive: its name in it, and its bytes or the file that contains them."""

    name: str
    source: Path | bytes

    @property
    def size(self) -> int:
        """Length in bytes."""
        return len(self.source) if isinstance(self.source, bytes) else self.source.stat().st_size

    def open(self) -> BinaryIO:
        """Open the content for reading."""
        return io.BytesIO(self.source) if isinstance(self.source, bytes) else cast("BinaryIO", self.source.open("rb", buffering=0))


@dataclass(frozen=True)
class Stored:
    """The place of an entry's bytes in the archive file, where they can be read without unzipping."""

    offset: int
    size: int
    sha256: str


@dataclass(frozen=True)
class Archived:
    """A finished archive: its path, its inputs, and the place of each entry's bytes in it."""

    path: Path
    name: str
    version: str
    weights: str
    inputs: str
    entries: dict[str, Stored]
    skipped: bool

    def summary(self) -> dict[str, Any]:
        """Return the result that the command line prints."""
        return {
            "path": str(self.path),
            "size": sum(stored.size for stored in self.entries.values()),
            "inputs": self.inputs,
            "version": self.version,
            "entries": len(self.entries),
            "skipped": self.skipped,
        }


def _hashed_copy(source: BinaryIO, target: IO[bytes], task: Task) -> str:
    """Copy to the end and return the sha256 (hex).

    Hashing runs on another core, one buffer behind the copy; the same two buffers are used throughout.
    """
    digest = hashlib.sha256()
    buffers = memoryview(bytearray(CHUNK)), memoryview(bytearray(CHUNK))
    with ThreadPoolExecutor(1) as pool:
        hashing: list[Future[None]] = [pool.submit(digest.update, b"")] * 2
        turn = 0
        hashing[turn].result()
        while count := source.readinto(buffers[turn]):  # type: ignore[attr-defined] # files and BytesIO alike have it
            piece = buffers[turn][:count]
            hashing[turn] = pool.submit(digest.update, piece)
            target.write(piece)
            task.advance(count)
            turn = 1 - turn
            hashing[turn].result()
    return digest.hexdigest()


def write_mar(path: Path, entries: Sequence[Entry], task: Task) -> dict[str, Stored]:
    """Write the archive atomically and return the place of each entry's bytes in it.

    It needs a few MiB of memory, whatever the size. Raises DiskFull; OSError when an input cannot be read.
    """
    ordered = sorted(entries, key=lambda entry: entry.name)
    digests: dict[str, str] = {}
    with atomic_write(path) as file:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            for entry in ordered:
                info = zipfile.ZipInfo(entry.name, FIXED_TIME)
                info.create_system = 3
                info.external_attr = (stat.S_IFREG | 0o644) << 16
                size = entry.size
                with entry.open() as source, archive.open(info, "w", force_zip64=size >= 1 << 31) as target:
                    digests[entry.name] = _hashed_copy(source, target, task)
            infos = {info.filename: info for info in archive.infolist()}
        return {name: Stored(_data_offset(file, infos[name]), infos[name].file_size, digests[name]) for name in digests}


def _data_offset(file: IO[bytes], info: zipfile.ZipInfo) -> int:
    file.seek(info.header_offset)
    fields = LOCAL_HEADER.unpack(file.read(LOCAL_HEADER.size))
    return int(info.header_offset + LOCAL_HEADER.size + fields[-2] + fields[-1])


def write_tgz(path: Path, top: str, entries: Sequence[Entry], task: Task) -> None:
    """Write the entries under one folder as a gzip'd tar with fixed order, owners and times (torch-model-archiver's `tgz`)."""
    with (
        atomic_write(path) as file,
        gzip.GzipFile(filename="", fileobj=file, mode="wb", compresslevel=1, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for entry in sorted(entries, key=lambda entry: entry.name):
            info = tarfile.TarInfo(f"{top}/{entry.name}")
            info.size, info.mode = entry.size, 0o644
            with entry.open() as source:
                archive.addfile(info, source)
            task.advance(info.size)


def write_folder(path: Path, entries: Sequence[Entry], task: Task) -> None:
    """Write the entries as an unpacked folder (torch-model-archiver's `no-archive`)."""
    for entry in sorted(entries, key=lambda entry: entry.name):
        with entry.open() as source, atomic_write(path / entry.name) as target:
            _hashed_copy(source, target, task)


def unpack(mar: Path, destination: Path) -> None:
    """Unpack an untrusted archive into a new folder, without writing outside it or filling the disk; a failure removes the folder.

    Raises ArchiveInvalid for a broken zip, a wrong checksum, and for the reasons of `checked`: TorchServe 0.12 checks only that a
    name begins with the destination's text.
    """
    with opened(mar) as archive:
        infos = checked(mar, archive)
        try:
            for info in infos:
                target = destination / info.filename
                if info.is_dir():
                    target.mkdir(parents=True, exist_ok=True)
                    continue
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(info) as source, target.open("wb") as file:
                    while chunk := source.read(CHUNK):
                        file.write(chunk)
        except BaseException:
            shutil.rmtree(destination, ignore_errors=True)
            raise


@contextmanager
def opened(mar: Path, problem: str = "") -> Iterator[zipfile.ZipFile]:
    """Open an untrusted archive; what zipfile raises about its content becomes ArchiveInvalid, with `problem` as its message."""
    try:
        with zipfile.ZipFile(mar) as archive:
            yield archive
    except UNREADABLE as error:
        message = problem or f"{mar}: not a readable model archive: {error}"
        raise ArchiveInvalid(message, "write the path of a .mar" if problem else "archive the model again") from error


def checked(mar: Path, archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """Return the entries of an untrusted archive.

    Raises ArchiveInvalid for absolute names, names with .., links, encrypted entries, names that appear twice (also as a file and
    a folder), entries that overlap, and archives that unpack to far more than their size.
    """
    infos = archive.infolist()
    if len(infos) > MAX_ENTRIES:
        raise ArchiveInvalid(f"{mar}: contains {len(infos)} entries, more than {MAX_ENTRIES}")
    files: set[str] = set()
    folders: set[str] = set()
    for info in infos:
        name = PurePosixPath(info.filename)
        if name.is_absolute() or ".." in name.parts or "\\" in info.filename or "\0" in info.filename or not name.parts:
            raise ArchiveInvalid(f"{mar}: entry {info.filename!r} would be written outside the model's folder")
        if stat.S_ISLNK(info.external_attr >> 16):
            raise ArchiveInvalid(f"{mar}: entry {info.filename!r} is a symbolic link")
        if info.flag_bits & ENCRYPTED:
            raise ArchiveInvalid(f"{mar}: entry {info.filename!r} is encrypted", "archive the model without a password")
        folders.update(str(parent) for parent in name.parents)
        if not info.is_dir() and str(name) in files:
            raise ArchiveInvalid(f"{mar}: entry {info.filename!r} appears twice")
        (folders if info.is_dir() else files).add(str(name))
    if both := sorted(files & folders):
        raise ArchiveInvalid(f"{mar}: entry {both[0]!r} appears twice, as a file and as a folder")
    packed, unpacked = sum(info.compress_size for info in infos), sum(info.file_size for info in infos)
    if packed > mar.stat().st_size:
        raise ArchiveInvalid(f"{mar}: its entries overlap")
    if unpacked - packed > MAX_EXPANSION:
        raise ArchiveInvalid(f"{mar}: unpacks to {unpacked} bytes, {unpacked - packed} more than its own: a zip bomb")
    return infos
