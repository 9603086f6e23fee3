"""Why the last stage failed, kept beside what the stages leave: the job's summary and the pull request's comment tell it."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from torchrelay.core.errors import ModelInvalid, TorchrelayError
from torchrelay.core.files import read_json, write_json
from torchrelay.core.workspace import Workspace

NAME = "error.json"
FOLDERS_OF_OURS = ("model.yaml", "release.json")  # a model directory, a bundle
# A verb whose failure belongs to the relay, and the stages that its run goes through: their failures are mended when it begins.
STAGES = ("check", "fetch", "archive", "build", "verify", "diff", "bundle", "login", "push", "attest", "deploy")
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
    "relay": {*STAGES, "relay"},
    "rollback": {"rollback"},
    "doctor": set(),
}
BEFORE_ALL = "doctor"  # whoever goes on after its complaints has read them


def _path(folder: Path | None) -> Path | None:
    """Return where a failure is kept: with the model or the bundle; in the job's folder for a verb without either, like login."""
    if folder is not None:
        root = Workspace(folder).root
        try:
            return None if root.is_symlink() else root / NAME
        except OSError:  # a name that no folder can have
            return root / NAME
    temporary = os.environ.get("RUNNER_TEMP")
    return Path(temporary) / f"torchrelay-{NAME}" if temporary else None


def keep(folder: Path | None, stage: str, error: TorchrelayError) -> None:
    """Write error.json, in a folder of ours; whatever prevents that, the error itself is what the user is told."""
    path = _path(folder)
    if path is None or stage not in COVERS:
        return
    problems = [vars(problem) for problem in error.problems] if isinstance(error, ModelInvalid) else []
    told = {"stage": error.stage or stage, "kind": error.kind, "message": error.message, "fix": error.fix, "problems": problems}
    with suppress(OSError, ValueError, TorchrelayError):
        if folder is None:
            write_json(path, told)
        elif any((folder / name).is_file() for name in FOLDERS_OF_OURS):
            Workspace(folder).ensure()
            write_json(path, told)


def clear(folder: Path | None, stage: str) -> None:
    """Remove error.json when `stage` begins anew, by itself or as part of a longer run."""
    path, found = _path(folder), read(folder)
    if path is None or found is None or stage not in COVERS:
        return
    if found.get("stage") in {*COVERS[stage], BEFORE_ALL}:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def there(folder: Path | None) -> bool:
    """Tell whether something failed, also when what says why is damaged."""
    path = _path(folder)
    return path is not None and path.exists()


def read(folder: Path | None) -> dict[str, Any] | None:
    """Return what error.json says; None when nothing failed, or the file is damaged."""
    path = _path(folder)
    try:
        found = read_json(path) if path is not None else None
    except RecursionError:
        return None
    return found if isinstance(found, dict) else None
