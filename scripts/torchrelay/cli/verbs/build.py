"""`torchrelay build`."""

from torchrelay.cli.console import DEFAULT_DIR, AllowOutside, AsJson, DryRun, ModelDir, begin, done, planned
from torchrelay.core import progress
from torchrelay.core.workspace import Workspace
from torchrelay.stages.relay import Relay


def run(
    model_dir: ModelDir = DEFAULT_DIR,
    allow_outside: AllowOutside = False,
    as_json: AsJson = False,
    dry_run: DryRun = False,
) -> None:
    """Build the image.

    Runtime, dependencies, weights and handler are separate layers, so an edit changes only its own layer.
    """
    begin(as_json=as_json, allow_outside=allow_outside)
    relay = Relay(model_dir, progress.progress(), dry=dry_run)
    checked = relay.check()
    if dry_run:
        return planned("build", ["compose runtime, dependencies, weights and handler layers into .torchrelay/image.json"])
    with Workspace(model_dir).lock():
        built = relay.built(checked)
    return done(built.summary(), f"{built.image.digest}{'  (already built)' if built.skipped else ''}")
