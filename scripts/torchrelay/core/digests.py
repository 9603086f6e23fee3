"""SHA-256 of files, remembered by what the file system says of them, so that an unchanged file is read once."""

import hashlib
from collections.abc import Callable
from pathlib import Path

from torchrelay.core.files import read_json, write_json

BLOCK = 1 << 20
KEPT = 64
"""Files remembered per model directory; the oldest are forgotten first."""


def sha256_of(path: Path, advance: Callable[[int], None] = lambda _amount: None) -> str:
    """Return the digest in hex; `advance` is told of the bytes read."""
    digest = hashlib.sha256()
    buffer = bytearray(BLOCK)
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(memoryview(buffer)[:count])
            advance(count)
    return digest.hexdigest()


class DigestMemo:
    """Digests kept in one JSON file, each under its file's path, size, time of change and inode."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def sha256_of(self, file: Path, advance: Callable[[int], None] = lambda _amount: None) -> str:
        """Return the digest, reading the file only when it is not the one remembered."""
        key = str(file.resolve())
        before = _stamp(file)
        known = self._read()
        entry = known.get(key)
        if isinstance(entry, dict) and entry.get("stamp") == before and isinstance(entry.get("sha256"), str):
            return str(entry["sha256"])
        found = sha256_of(file, advance)
        if _stamp(file) == before:
            self.remember(file, found)
        return found

    def remember(self, file: Path, sha256: str) -> None:
        """Note a digest that was computed while the file was written."""
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
    """Return when an entry was made, counted in entries."""
    turn = entry.get("turn")
    return turn if isinstance(turn, int) else 0
