"""`torchrelay check`."""

from typing import Any

from torchrelay.cli.console import DEFAULT_DIR, AllowOutside, AsJson, DryRun, ModelDir, begin, done, planned
from torchrelay.core.log import log
from torchrelay.core.workspace import Workspace
from torchrelay.stages import check, journal


def run(
    model_dir: ModelDir = DEFAULT_DIR,
    allow_outside: AllowOutside = False,
    as_json: AsJson = False,
    dry_run: DryRun = False,
) -> None:
    """Find every mistake, with file and line.

    Reads model.yaml, its samples and every file they name; runs no code of the model.
    """
    begin(as_json=as_json, allow_outside=allow_outside)
    if dry_run:
        return planned("check", [f"read {model_dir / 'model.yaml'} and every file it names"])
    workspace = Workspace(model_dir)
    workspace.reject_foreign()
    checked, _ = journal.timed(workspace, "check", lambda: check.run(model_dir), _row)
    for warning in checked.warnings:
        log.warning("%s", warning)
    result = {
        "model": checked.model.name,
        "samples": len(checked.samples),
        "warnings": [str(warning) for warning in checked.warnings],
        "result": "passed",
        **checked.executes_code,
    }
    code = f"; its weights ({checked.model.weights.format}) execute code when they are loaded" if checked.executes_code else ""
    return done(result, f"{checked.model.name}: no mistakes; {len(checked.samples)} samples{code}")


def _row(checked: check.Checked) -> dict[str, Any]:
    return {"said": checked.model.name, **checked.executes_code}
