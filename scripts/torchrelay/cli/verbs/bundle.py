"""`torchrelay bundle`."""

from pathlib import Path
from typing import Annotated

from torchrelay.cli.console import DEFAULT_DIR, AllowOutside, AsJson, DryRun, ModelDir, begin, done, option, planned
from torchrelay.core import progress
from torchrelay.core.workspace import Workspace
from torchrelay.stages.relay import Relay


def run(
    output: Annotated[Path, option("output", "Folder to write: missing, empty, or a bundle.")],
    model_dir: ModelDir = DEFAULT_DIR,
    allow_outside: AllowOutside = False,
    as_json: AsJson = False,
    dry_run: DryRun = False,
) -> None:
    """Pack the verified image for another job.

    Image, verdict, samples and source in one folder. Push and deploy need nothing else of the model.
    """
    begin(as_json=as_json, allow_outside=allow_outside)
    if dry_run:
        return planned("bundle", [f"write the verified image and its verdict into {output}"])
    with Workspace(model_dir).lock():
        written = Relay(model_dir, progress.progress()).bundle(output)
    return done(written.summary(), f"{written.folder}  {written.digest}")
