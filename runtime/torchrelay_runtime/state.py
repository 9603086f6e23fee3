"""The state that the runtime's parts share: small files in the state folder, each replaced whole.

status.json   {"ready", "reason", "failed"}, written by the entrypoint; the front sends it as the body of a 503 on /ping
ready         exists while the container is ready; the front looks at it for every /ping
cancelled/    a file for each request whose client left before the answer; the handler library removes those that it meets
draining.json exists once draining began; it overrides `ready` from then on
.draining.json is written at the start and renamed to draining.json then, so that draining needs no space on the disk
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path

STATUS = "status.json"
READY = "ready"
DRAINING = "draining.json"
CANCELLED = "cancelled"
RESERVE = ".draining.json"
OWN_TEMPORARY = re.compile(r"\.(status|\.?draining)\.json\.[0-9]+")


@dataclass(frozen=True)
class Status:
    """`failed`: the server gave up for good, so waiting any longer is useless."""

    ready: bool
    reason: str
    failed: bool = False


def replace(path: Path, text: str) -> None:
    """Write `text` so that a reader sees the old content or the new, never a part."""
    new = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        new.write_text(text, encoding="utf-8")
        new.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            new.unlink(missing_ok=True)
        raise


def write_status(state: Path, status: Status) -> None:
    """Publish `status`; the file that makes /ping say 200 comes last and goes first."""
    if not status.ready:
        (state / READY).unlink(missing_ok=True)
    replace(state / STATUS, json.dumps(asdict(status)) + "\n")
    if status.ready:
        (state / READY).touch()


def write_draining(path: Path) -> None:
    """Write the status of draining to `path`."""
    replace(path, json.dumps(asdict(Status(ready=False, reason="draining"))) + "\n")


def prepare_draining(state: Path) -> None:
    """Write the file that `start_draining` renames."""
    write_draining(state / RESERVE)


def start_draining(state: Path) -> None:
    """Make the container not ready from now on; never raises, because nothing must keep a container from ending."""
    with contextlib.suppress(OSError):
        try:
            (state / RESERVE).replace(state / DRAINING)
        except OSError:
            if not (state / DRAINING).exists():  # preStop may have been here before TERM
                write_draining(state / DRAINING)
    with contextlib.suppress(OSError):
        (state / READY).unlink(missing_ok=True)


def forget_cancelled(state: Path, older_than: float) -> None:
    """Remove the files of cancelled requests from before `older_than` (seconds since 1970): those requests are over."""
    with contextlib.suppress(OSError):
        for entry in os.scandir(state / CANCELLED):
            if entry.stat().st_mtime < older_than:
                Path(entry.path).unlink()


def read_status(state: Path) -> Status:
    """Return the status published last. A "ready" without the file `ready`, which is removed first, could not be overwritten."""
    for name in (DRAINING, STATUS):
        try:
            raw = json.loads((state / name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            continue
        if raw["ready"] and not (state / READY).exists():
            return Status(ready=False, reason="the status could not be written; the container's log says why")
        return Status(ready=raw["ready"], reason=raw["reason"], failed=raw["failed"])
    return Status(ready=False, reason=f"nothing is running here: {state} holds no status")
