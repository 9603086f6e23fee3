"""Blobs by digest: in the cache, or as pieces of files that are elsewhere already, so that weights are not copied."""

import base64
import hashlib
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torchrelay.core.files import CHUNK, atomic_write
from torchrelay.core.paths import cache_dir
from torchrelay.core.progress import Task

ABANDONED_S = 24 * 3600


@dataclass(frozen=True)
class Slice:
    """`size` bytes of a file from `offset`."""

    path: Path
    offset: int
    size: int
    mtime_ns: int = 0
    """When the file was last changed; 0: not checked."""

    def present(self) -> bool:
        """Return whether the file is there, long enough, and unchanged."""
        try:
            status = self.path.stat()
        except OSError:
            return False
        return status.st_size >= self.offset + self.size and self.mtime_ns in (0, status.st_mtime_ns)

    def chunks(self) -> Iterator[bytes]:
        """Yield the bytes in pieces of at most 1 MiB. Raises OSError when the file is gone, EOFError when it is too short."""
        with self.path.open("rb") as file:
            file.seek(self.offset)
            remaining = self.size
            while remaining:
                chunk = file.read(min(CHUNK, remaining))
                if not chunk:
                    raise EOFError(f"{self.path}: ends {remaining} bytes early")
                remaining -= len(chunk)
                yield chunk


Part = bytes | Slice


@dataclass(frozen=True)
class Blob:
    """Content with its sha256 digest (`sha256:...`), its length in bytes and where its bytes come from."""

    digest: str
    size: int
    parts: tuple[Part, ...]

    def chunks(self) -> Iterator[bytes]:
        """Yield the bytes."""
        for part in self.parts:
            if isinstance(part, bytes):
                yield part
            else:
                yield from part.chunks()

    def present(self) -> bool:
        """Return whether every file with these bytes is still there, long enough, and unchanged."""
        return all(isinstance(part, bytes) or part.present() for part in self.parts)

    def to_json(self) -> dict[str, Any]:
        """Return the form in which build's record stores it."""
        parts: list[dict[str, Any]] = [
            {"data": base64.b64encode(part).decode()}
            if isinstance(part, bytes)
            else {"path": str(part.path), "offset": part.offset, "size": part.size, "mtime_ns": part.mtime_ns}
            for part in self.parts
        ]
        return {"digest": self.digest, "size": self.size, "parts": parts}

    @staticmethod
    def from_json(value: dict[str, Any]) -> "Blob":
        """Parse the form that to_json returns."""
        parts: tuple[Part, ...] = tuple(
            base64.b64decode(part["data"])
            if "data" in part
            else Slice(Path(part["path"]), part["offset"], part["size"], part["mtime_ns"])
            for part in value["parts"]
        )
        return Blob(value["digest"], value["size"], parts)


def sha256_digest(data: bytes) -> str:
    """Return `sha256:` and the hex digest."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def from_bytes(data: bytes) -> Blob:
    """Return a blob of bytes in memory."""
    return Blob(sha256_digest(data), len(data), (data,))


def from_parts(parts: tuple[Part, ...], task: Task) -> Blob:
    """Read all parts once and return their blob."""
    digest, size = hashlib.sha256(), 0
    for chunk in Blob("", 0, parts).chunks():
        digest.update(chunk)
        size += len(chunk)
        task.advance(len(chunk))
    return Blob(f"sha256:{digest.hexdigest()}", size, parts)


def blob_path(digest: str) -> Path:
    """Return the path of a blob in the cache."""
    return cache_dir() / "blobs" / digest.replace(":", "/")


def stored_blob(digest: str) -> Blob | None:
    """Return a blob of the cache, or None."""
    path = blob_path(digest)
    if not path.is_file():
        return None
    size = path.stat().st_size
    return Blob(digest, size, (Slice(path, 0, size),))


def adopt(path: Path, digest: str) -> Blob:
    """Move a finished file into the cache under its digest."""
    target = blob_path(digest)
    target.parent.mkdir(parents=True, exist_ok=True)
    path.replace(target)
    size = target.stat().st_size
    return Blob(digest, size, (Slice(target, 0, size),))


def sweep(staging: Path, now: float | None = None) -> None:
    """Remove unfinished files of killed runs: no writer of a file that is a day old is still alive."""
    oldest = (time.time() if now is None else now) - ABANDONED_S
    for path in staging.iterdir():
        with suppress(OSError):  # another process may be removing it too
            if path.stat().st_mtime < oldest:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def write_blob(data: Iterator[bytes]) -> Blob:
    """Write chunks into the cache and return the blob. Raises DiskFull."""
    staging = cache_dir() / "blobs" / "incoming"
    staging.mkdir(parents=True, exist_ok=True)
    sweep(staging)
    digest, size = hashlib.sha256(), 0
    unfinished = staging / uuid.uuid4().hex
    with atomic_write(unfinished) as file:
        for chunk in data:
            digest.update(chunk)
            size += len(chunk)
            file.write(chunk)
    return adopt(unfinished, f"sha256:{digest.hexdigest()}")
