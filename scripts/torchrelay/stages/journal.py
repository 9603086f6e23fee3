"""What each stage did and how long it took: `.torchrelay/stages.json`, one row per stage, for summaries."""

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from torchrelay.core.errors import BundleInvalid, TorchrelayError
from torchrelay.core.files import read_json, write_json
from torchrelay.core.json_text import parse_untrusted
from torchrelay.core.workspace import Workspace
from torchrelay.oci.layout import document

ORDER = ("check", "fetch", "archive", "build", "verify", "diff", "bundle", "login", "push", "attest", "deploy")
BUILD_JOB = ORDER[: ORDER.index("login")]
"""The stages up to the end of the build job; their rows travel in a bundle."""
NAME = "stages.json"
LIMIT = 1 << 20  # bytes
_RESULT = ("sha256", "inputs", "digest", "config", "reference", "result", "target")

Row = dict[str, Any]
T = TypeVar("T")


def merged(rows: list[Row], row: Row) -> list[Row]:
    """Return the rows with one more, in the order of the relay.

    A skipped run keeps the row of the run that made the same result. A different result removes the rows of later stages: they
    worked on the old result.
    """
    before = next((one for one in rows if one["stage"] == row["stage"]), None)
    same = before is not None and _result(before) == _result(row)
    if same and row.get("skipped"):
        return rows
    place = _place(row)
    others = [one for one in rows if _place(one) < place or (_place(one) > place and (same or before is None))]
    return sorted([*others, row], key=_place)


def read(workspace: Workspace) -> list[Row]:
    """Return the rows; an empty list when the file is missing or unreadable."""
    return read_file(workspace.stages)


def read_file(path: Path) -> list[Row]:
    """Return the rows of any such file."""
    return _known(read_json(path))


def _known(rows: Any) -> list[Row]:
    return [row for row in rows if isinstance(row, dict) and row.get("stage") in ORDER] if isinstance(rows, list) else []


def record(workspace: Workspace, row: Row) -> None:
    """Add a row: `stage`, `seconds`, `began` (seconds since the epoch), `skipped`, and the stage's own fields.

    A folder that cannot be written to does not fail the stage: only the summary lacks a row.
    """
    with suppress(OSError):
        workspace.ensure()
        write_json(workspace.stages, merged(read(workspace), row))


def timed(workspace: Workspace | None, stage: str, work: Callable[[], T], row_of: Callable[[T], Row]) -> tuple[T, Row]:
    """Do a stage's work; return its result and its row, which is recorded unless `workspace` is None (a dry run).

    An error that it raises gets the name of the stage.
    """
    began, begin = time.time(), time.monotonic()
    try:
        result = work()
    except TorchrelayError as error:
        error.stage = error.stage or stage
        raise
    row = {"stage": stage, "seconds": round(time.monotonic() - begin, 3), "began": round(began, 3), **row_of(result)}
    if workspace is not None:
        record(workspace, {"skipped": False, **row})
    return result, row


def hand_over(workspace: Workspace, path: Path) -> None:
    """Write the rows of the build job into a file."""
    write_json(path, [row for row in read(workspace) if row["stage"] in BUILD_JOB])


def handed_over(folder: Path) -> list[Row]:
    """Return the build job's rows in a bundle; an empty list when the file is not a regular one of at most `LIMIT` bytes."""
    try:
        rows = parse_untrusted(document(folder, NAME, LIMIT))
    except (BundleInvalid, ValueError):
        return []
    return [row for row in _known(rows) if row["stage"] in BUILD_JOB]


def _place(row: Row) -> int:
    return ORDER.index(row["stage"])


def _result(row: Row) -> Row:
    return {key: row[key] for key in _RESULT if key in row}
