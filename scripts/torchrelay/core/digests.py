"""SHA-256 of files, remembered by size, times and inode, so that an unchanged file is read once."""

import hashlib
from collections.abc import Callable
from pathlib import Path

from torchrelay.core.files import read_json, write_json

BLOCK = 1 << 20
KEPT = 64
"""Number of files remembered per model directory; the oldest are forgotten first."""


def sha256_of(path: Path, advance: Callable[[int], None] = lambda _amount: None) -> str:
    """Return the digest in hex; `advance` receives the number of bytes read."""
    digest = hashlib.sha256()
    buffer = bytearray(BLOCK)
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(memoryview(buffer)[:count])
            advance(count)
    return digest.hexdigest()


class DigestMemo:
    """Digests stored in one JSON file, each with its file's path, size, times of change and inode."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def sha256_of(self, file: Path, advance: Callable[[int], None] = lambda _amount: None) -> str:
        """Return the digest; the file is read only when it changed since it was remembered."""
        key = str(file.resolve())
        before = _stamp(file)
        known = self._read()
        entry = known.get(key)
        if isinstance(entry, dict) and entry.get("stamp") == before and isinstance(entry.get("sha256"), str):
            return str(entry["sha256"])
        digest = sha256_of(file, advance)
        if _stamp(file) == before:
            self.remember(file, digest)
        return digest

    def remember(self, file: Path, sha256: str) -> None:
        """Store a digest that was computed while the file was written."""
        known = self._read()
        known.pop(str(file.resolve()), None)
        known[str(file.resolve())] = {
            "stamp": _stamp(file),
            "sha256": sha256,
            "turn": 1 + max(map(_turn, known.values()), default=0),
        }
        newest = sorted(known.items(), key=lambda item: _turn(item[1]))[-KEPT:]
        write_json(self.path, dict(newest))

    def _read(self) -> dict[str, dict[str, object]]:
        document = read_json(self.path)
        if not isinstance(document, dict):
            return {}
        return {key: entry for key, entry in document.items() if isinstance(entry, dict)}


def _stamp(file: Path) -> list[int]:
    """Return size, nanoseconds of the last changes of content and of inode, inode and device."""
    stat = file.stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino, stat.st_dev]


def _turn(entry: dict[str, object]) -> int:
    """Return an entry's position in the order in which entries were made."""
    turn = entry.get("turn")
    return turn if isinstance(turn, int) else 0
