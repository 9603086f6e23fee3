"""One relay at a time at what a target's resources are named after, which two model directories may share."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torchrelay.errors import Busy


@contextmanager
def turn(cache: Path, name: str) -> Iterator[None]:
    """Hold a name of this machine for this process; the kernel frees it when the process ends, however that is.

    Raises Busy when another process holds it.
    """
    path = cache / "locks" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            held.seek(0)
            holder = held.read().strip() or "unknown"
            raise Busy(
                f"{name}: another relay (process {holder}) works on it",
                "wait for it to end, or end it; nothing needs cleaning up",
            ) from error
        held.truncate(0)
        held.write(str(os.getpid()))
        held.flush()
        yield
