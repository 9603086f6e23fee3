"""Exclusive locks between processes."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torchrelay.core.errors import Busy

POLL_S = 0.1


@contextmanager
def exclusive(path: Path, busy: str, patience_s: float = 0.0) -> Iterator[None]:
    """Hold a file for this process; the kernel frees it when the process ends, however that is.

    Raises Busy when another process still holds it after `patience_s`: `busy` says so, with {} for that process.
    """
    deadline = time.monotonic() + patience_s
    with path.open("a+") as held:
        while True:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if time.monotonic() < deadline:
                    time.sleep(POLL_S)
                    continue
                held.seek(0)
                holder = held.read().strip() or "unknown"
                raise Busy(busy.replace("{}", holder), "wait for it to end, or end it; nothing needs cleaning up") from error
        held.truncate(0)
        held.write(str(os.getpid()))
        held.flush()
        yield


@contextmanager
def turn(cache: Path, name: str, patience_s: float = 0.0) -> Iterator[None]:
    """Hold a name of this machine for this process.

    Raises Busy when another process still holds it after `patience_s`.
    """
    path = cache / "locks" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with exclusive(path, f"{name}: another relay (process {{}}) works on it", patience_s):
        yield
