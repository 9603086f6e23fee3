"""Files: atomic writes, JSON documents, reading in chunks."""

import errno
import io
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from torchrelay.core.errors import DiskFull
from torchrelay.core.json_text import parse_untrusted

CHUNK = 1 << 20  # bytes read at once


@contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """Open a temporary file beside `path` that takes its name only when the block succeeds.

    Raises DiskFull when there is no room; nothing is left behind then, or on any other error.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    except OSError as error:
        error.filename = str(path)  # the user knows this name
        raise
    temporary = Path(name)
    try:
        with os.fdopen(handle, "w+b") as file:
            yield file
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(f"no room left while writing {path}", "free some disk space and run it again") from error
        if error.filename == name:
            error.filename, error.filename2 = str(path), None
        raise
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """Write a JSON document atomically, keys sorted."""
    with atomic_write(path) as file:
        file.write(json.dumps(value, indent=2, sort_keys=True).encode() + b"\n")


def read_json(path: Path) -> Any:
    """Return a JSON document; None when it is missing or truncated, and the stage then does its work again."""
    try:
        return parse_untrusted(path.read_bytes())
    except (OSError, ValueError):
        return None


class ChunkReader(io.RawIOBase):
    """A readable file over an iterator of chunks."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._left = b""

    def readable(self) -> bool:
        """Return True: it can be read."""
        return True

    def read(self, size: int = -1) -> bytes:
        """Return `size` bytes, fewer at the end."""
        pieces, missing = [], size
        while missing and (self._left or self._more()):
            piece = self._left if missing < 0 else self._left[:missing]
            self._left = self._left[len(piece) :]
            pieces.append(piece)
            missing -= len(piece) if missing > 0 else 0
        return b"".join(pieces)

    def _more(self) -> bool:
        self._left = next(self._chunks, b"")
        return bool(self._left)
