"""Exclusive locks between processes, on `filelock`; the kernel frees one when its process ends, however that is."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from torchrelay.core.errors import Busy

POLL_S = 0.1
LONGEST_S = 2400.0
"""The longest wait for another process that does the same long work: building a runtime image, downloading weights."""


@contextmanager
def exclusive(path: Path, busy: str, patience_s: float = 0.0) -> Iterator[None]:
    """Hold a lock file for this process; the process that holds it is named in a file beside it.

    Raises Busy when another process still holds it after `patience_s`: `busy` is the message, with {} for that process's id.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    holder = path.with_name(f"{path.name}.holder")
    lock = FileLock(path, timeout=patience_s, poll_interval=POLL_S)
    try:
        lock.acquire()
    except Timeout as error:
        name = holder.read_text(errors="replace").strip() if holder.exists() else ""
        raise Busy(busy.replace("{}", name or "unknown"), "wait for it to end, or end it; nothing needs cleaning up") from error
    try:
        holder.write_text(str(os.getpid()))
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


@contextmanager
def turn(cache: Path, name: str, patience_s: float = 0.0) -> Iterator[None]:
    """Hold a name of this machine for this process, so that two model directories cannot change the same deployment at once.

    Raises Busy when another process still holds it after `patience_s`.
    """
    with exclusive(cache / "locks" / name, f"{name}: another relay (process {{}}) works on it", patience_s):
        yield
