"""`torchrelay rollback`."""

from torchrelay.cli.console import DEFAULT_DIR, AsJson, DryRun, ModelDir, Target, begin, done, planned
from torchrelay.cli.endpoints import model_and_target
from torchrelay.core import progress
from torchrelay.core.workspace import Workspace
from torchrelay.stages import deploy


def run(model_dir: ModelDir = DEFAULT_DIR, target: Target = None, as_json: AsJson = False, dry_run: DryRun = False) -> None:
    """Restore the previous version.

    It must answer its own warm-up sample again before it receives traffic.
    """
    begin(as_json=as_json)
    model, chosen = model_and_target(model_dir, target)
    if dry_run:
        return planned("rollback", [f"restore the previous version of {model.name} on {chosen}"])
    with Workspace(model_dir).lock():
        endpoint = deploy.target_at(model_dir, model, chosen, progress.progress()).rollback()
    return done(endpoint.summary(), f"{endpoint.url} answers {endpoint.version} again")
