"""error.json: why the last stage failed, for the job's summary and the comment on the pull request."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from torchrelay.core.errors import ModelInvalid, TorchrelayError
from torchrelay.core.files import read_json, write_json
from torchrelay.core.workspace import Workspace
from torchrelay.stages.journal import ORDER

NAME = "error.json"
MARKERS = ("model.yaml", "release.json")  # a model directory, a bundle
# For each verb, the stages it re-runs; starting it clears their recorded failures.
COVERS = {
    "check": {"check"},
    "fetch": {"fetch"},
    "archive": {"check", "fetch", "archive"},
    "build": {"check", "fetch", "archive", "build"},
    "verify": {"check", "fetch", "archive", "build", "verify"},
    "diff": {"diff"},
    "bundle": {"bundle"},
    "login": {"login"},
    "push": {"push"},
    "attest": {"attest"},
    "deploy": {"check", "fetch", "archive", "build", "deploy"},
    "relay": {*ORDER, "relay"},
    "rollback": {"rollback"},
    "doctor": set(),
}
BEFORE_ALL = "doctor"  # its complaints are advice: any later verb clears them


def _path(folder: Path | None) -> Path | None:
    """Return the path of error.json: with the model or the bundle; in the job's folder for a verb without either, like login."""
    if folder is not None:
        root = Workspace(folder).root
        try:
            return None if root.is_symlink() else root / NAME
        except OSError:  # a name that no folder can have
            return root / NAME
    temporary = os.environ.get("RUNNER_TEMP")
    return Path(temporary) / f"torchrelay-{NAME}" if temporary else None


def keep(folder: Path | None, stage: str, error: TorchrelayError) -> None:
    """Write error.json into a model directory or bundle; if that fails, only the error itself is reported."""
    path = _path(folder)
    if path is None or stage not in COVERS:
        return
    problems = [vars(problem) for problem in error.problems] if isinstance(error, ModelInvalid) else []
    fields = {"stage": error.stage or stage, "kind": error.kind, "message": error.message, "fix": error.fix, "problems": problems}
    with suppress(OSError, ValueError, TorchrelayError):
        if folder is None:
            write_json(path, fields)
        elif any((folder / name).is_file() for name in MARKERS):
            Workspace(folder).ensure()
            write_json(path, fields)


def clear(folder: Path | None, stage: str) -> None:
    """Remove error.json when `stage` starts again, by itself or as part of a longer run."""
    path, failure = _path(folder), read(folder)
    if path is None or failure is None or stage not in COVERS:
        return
    if failure.get("stage") in {*COVERS[stage], BEFORE_ALL}:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def there(folder: Path | None) -> bool:
    """Return whether a failure is recorded, even in a damaged file."""
    path = _path(folder)
    return path is not None and path.exists()


def read(folder: Path | None) -> dict[str, Any] | None:
    """Return the content of error.json; None when nothing failed, or the file is damaged."""
    path = _path(folder)
    failure = read_json(path) if path is not None else None
    return failure if isinstance(failure, dict) else None
