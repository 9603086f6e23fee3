"""What the parts of the runtime tell each other: small files in the state folder, each replaced whole.

status.json   {"ready", "reason", "failed"}, written by the entrypoint; the front sends it as the body of a 503 on /ping
ready         exists while the container is ready; the front looks at it for every /ping
draining.json exists once draining began; it wins over `ready` at once, whoever writes what
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

STATUS = "status.json"
READY = "ready"
DRAINING = "draining.json"


@dataclass(frozen=True)
class Status:
    """`failed`: the server gave up for good, so waiting any longer is useless."""

    ready: bool
    reason: str
    failed: bool = False


def replace(path: Path, text: str) -> None:
    """Write `text` so that a reader sees the old content or the new, never a part."""
    new = path.with_name(f".{path.name}.{os.getpid()}")
    new.write_text(text, encoding="utf-8")
    new.replace(path)


def write_status(state: Path, status: Status) -> None:
    """Publish `status`; the file that makes /ping say 200 comes last and goes first."""
    if not status.ready:
        (state / READY).unlink(missing_ok=True)
    replace(state / STATUS, json.dumps(asdict(status)) + "\n")
    if status.ready:
        (state / READY).touch()


def start_draining(state: Path) -> None:
    """Make the container not ready from now on."""
    replace(state / DRAINING, json.dumps(asdict(Status(ready=False, reason="draining"))) + "\n")


def read_status(state: Path) -> Status:
    """Return what was published last."""
    for name in (DRAINING, STATUS):
        try:
            raw = json.loads((state / name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            continue
        return Status(ready=raw["ready"], reason=raw["reason"], failed=raw["failed"])
    return Status(ready=False, reason=f"nothing is running here: {state} holds no status")
