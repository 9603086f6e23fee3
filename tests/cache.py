"""The folder in which the tests keep what they build once, beyond this checkout, and the lock that stops a second build of it."""

import os
from contextlib import AbstractContextManager
from pathlib import Path

from torchrelay.core.locks import LONGEST_S, exclusive

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "torchrelay-tests"


def build_lock(path: Path, subject: str) -> AbstractContextManager[None]:
    """Hold a lock file while `subject` is built or used; another process waits for it for `LONGEST_S`.

    Raises Busy after that.
    """
    return exclusive(path, f"{subject}: process {{}} has been building or using it for over {LONGEST_S:.0f} s", LONGEST_S)
