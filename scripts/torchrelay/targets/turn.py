"""One relay at a time at what a target's resources are named after, which two model directories may share."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torchrelay.workspace import exclusive


@contextmanager
def turn(cache: Path, name: str, patience_s: float = 0.0) -> Iterator[None]:
    """Hold a name of this machine for this process.

    Raises Busy when another process still holds it after `patience_s`.
    """
    path = cache / "locks" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with exclusive(path, f"{name}: another relay (process {{}}) works on it", patience_s):
        yield
