"""Progress of transfers, on stderr: bars on a terminal, lines elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import rich.progress
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from torchrelay.core.log import log

LINE_EVERY_S = 5.0


class Task(Protocol):
    """One running transfer."""

    def advance(self, amount: int) -> None:
        """Count `amount` more bytes as done."""


class Progress(Protocol):
    """Shows transfers; stages receive one."""

    def task(self, description: str, total: int | None, /) -> AbstractContextManager[Task]:
        """Open a transfer of `total` bytes (None: unknown)."""


class _Counter:
    def __init__(self, advance: Callable[[int], None]) -> None:
        self.advance = advance


class Quiet:
    """Shows nothing: for tests and library use."""

    @contextmanager
    def task(self, _description: str, _total: int | None) -> Iterator[Task]:
        """See Progress.task."""
        yield _Counter(lambda _amount: None)


class Lines:
    """A line every few seconds, for logs without a cursor (CI, files)."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock

    @contextmanager
    def task(self, description: str, total: int | None) -> Iterator[Task]:
        """See Progress.task."""
        done, last = 0, self.clock()

        def advance(amount: int) -> None:
            nonlocal done, last
            done += amount
            if self.clock() - last >= LINE_EVERY_S:
                last = self.clock()
                share = f" of {total / 1e6:.0f}" if total else ""
                log.info("%s: %.0f%s MB", description, done / 1e6, share)

        yield _Counter(advance)


class Bars:
    """A bar per transfer, for terminals."""

    def __init__(self, console: Console) -> None:
        self.console = console

    @contextmanager
    def task(self, description: str, total: int | None) -> Iterator[Task]:
        """See Progress.task."""
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        with rich.progress.Progress(*columns, TimeRemainingColumn(), console=self.console, transient=True) as bar:
            row = bar.add_task(description, total=total)
            yield _Counter(lambda amount: bar.advance(row, amount))


def progress() -> Progress:
    """Return bars on a terminal, lines elsewhere."""
    return Bars(Console(stderr=True)) if sys.stderr.isatty() else Lines()
