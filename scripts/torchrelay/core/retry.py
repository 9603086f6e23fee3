"""Wait before another try, and hear Ctrl-C or TERM while waiting."""

import time

SLICE_S = 0.5


def pause(seconds: float) -> None:
    """Sleep in short pieces.

    A signal that arrives just before the system call sleeps through it: Python's handler runs when the call returns.
    """
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(left, SLICE_S))
