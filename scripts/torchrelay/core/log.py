"""The log, and tables, on stderr."""

import logging
import sys
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.logging import RichHandler
from rich.table import Table

from torchrelay.core import runner

log = logging.getLogger("torchrelay")


def configure_logging(*, verbose: bool, folder: Callable[[], Path | None] = lambda: None) -> None:
    """Send the log to stderr: coloured on a terminal, plain lines elsewhere, annotations for warnings and errors on GitHub.

    `folder` returns the model directory that an annotation's file belongs to.
    """
    handler: logging.Handler
    if sys.stderr.isatty():
        handler = RichHandler(console=Console(stderr=True), show_path=False, show_time=False)
    else:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(message)s"))
    log.handlers[:] = [handler]
    if runner.on_github():
        handler.addFilter(lambda record: record.levelno < logging.WARNING)  # the runner shows annotations in the log as well
        log.addHandler(runner.Annotations(logging.WARNING, folder))
    log.setLevel(logging.DEBUG if verbose else logging.INFO)
    log.propagate = False


def table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """Print a table on stderr."""
    grid = Table(title=title, title_justify="left")
    for column in columns:
        grid.add_column(column, overflow="fold")
    for row in rows:
        grid.add_row(*row)
    Console(stderr=True, width=None if sys.stderr.isatty() else 160).print(grid)
