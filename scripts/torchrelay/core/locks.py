"""Exclusive locks between processes, on `filelock`; the kernel frees one when its process ends, however that is."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from torchrelay.core.errors import Busy

log = logging.getLogger(__name__)

POLL_S = 0.1
LONGEST_S = 2400.0
"""The longest wait for another process that does the same long work: building a runtime image, downloading weights."""


@contextmanager
def exclusive(path: Path, busy: str, patience_s: float = 0.0) -> Iterator[None]:
    """Hold a lock file for this process; the process that holds it is named in a file beside it.

    Logs once when it has to wait. Raises Busy when another process still holds it after `patience_s`: `busy` is the message,
    with {} for that process's id.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    holder = path.with_name(f"{path.name}.holder")
    lock = FileLock(path, timeout=patience_s, poll_interval=POLL_S)
    try:
        _acquire(lock, holder, patience_s)
    except Timeout as error:
        raise Busy(busy.replace("{}", _holder_id(holder)), "wait for it to end, or end it; nothing needs cleaning up") from error
    try:
        holder.write_text(str(os.getpid()))
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def _acquire(lock: FileLock, holder: Path, patience_s: float) -> None:
    if patience_s > 0:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            log.info("waiting for another process (%s) that holds %s", _holder_id(holder), lock.lock_file)
        else:
            return
    lock.acquire()


def _holder_id(holder: Path) -> str:
    try:
        return holder.read_text(errors="replace").strip() or "unknown"
    except FileNotFoundError:
        return "unknown"


@contextmanager
def turn(cache: Path, name: str, patience_s: float = 0.0) -> Iterator[None]:
    """Hold a name of this machine for this process, so that two model directories cannot change the same deployment at once.

    Raises Busy when another process still holds it after `patience_s`.
    """
    with exclusive(cache / "locks" / name, f"{name}: another relay (process {{}}) works on it", patience_s):
        yield
