"""A mark by which this machine recognises a folder that it created itself; whoever fills a folder elsewhere cannot forge it."""

import hashlib
import hmac
import os
import secrets
from contextlib import suppress
from pathlib import Path

from torchrelay.core.paths import cache_dir

KEY_BYTES = 32


def mark_of(folder: Path) -> str:
    """Return the mark of a folder at its present path (hex): an HMAC with a key that never leaves this machine's cache."""
    return hmac.new(_key(), str(folder.resolve()).encode(), hashlib.sha256).hexdigest()


def is_marked(folder: Path, file: Path) -> bool:
    """Return whether a file contains the mark of a folder."""
    with suppress(OSError), file.open("rb") as opened:
        return not file.is_symlink() and hmac.compare_digest(
            opened.read(hashlib.sha256().digest_size * 2 + 1), mark_of(folder).encode()
        )
    return False


def _key() -> bytes:
    """Return this machine's key, created at its first use and readable only by this user."""
    path = cache_dir() / "machine.key"
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    if not path.exists():
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(secrets.token_bytes(KEY_BYTES))
        with suppress(FileExistsError):
            os.link(temporary, path)  # of two processes the first one wins
        temporary.unlink()
    return path.read_bytes()
