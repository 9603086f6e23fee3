"""`torchrelay delete`."""

from torchrelay.cli.console import DEFAULT_DIR, AsJson, DryRun, ModelDir, Target, begin, done, planned
from torchrelay.cli.endpoints import model_and_target
from torchrelay.core import progress
from torchrelay.core.workspace import Workspace
from torchrelay.stages import deploy


def run(model_dir: ModelDir = DEFAULT_DIR, target: Target = None, as_json: AsJson = False, dry_run: DryRun = False) -> None:
    """Remove everything that deploy created."""
    begin(as_json=as_json)
    model, chosen = model_and_target(model_dir, target)
    if dry_run:
        return planned("delete", [f"remove {model.name} and everything that deploy created for it on {chosen}"])
    with Workspace(model_dir).lock():
        deleted = deploy.target_at(model_dir, model, chosen, progress.progress()).delete()
    text = f"{model.name} on {chosen}: {'removed' if deleted else 'nothing was there'}"
    return done({"target": chosen, "deleted": deleted}, text)
