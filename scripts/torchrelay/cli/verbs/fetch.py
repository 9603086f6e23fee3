"""`torchrelay fetch`."""

from torchrelay.cli.console import DEFAULT_DIR, AllowOutside, AsJson, DryRun, ModelDir, UpdateLock, begin, done, planned
from torchrelay.core import progress
from torchrelay.core.paths import weights_cache
from torchrelay.core.workspace import Workspace
from torchrelay.model.server_config import load_model
from torchrelay.stages import fetch
from torchrelay.stages.relay import Relay


def run(
    model_dir: ModelDir = DEFAULT_DIR,
    allow_outside: AllowOutside = False,
    as_json: AsJson = False,
    dry_run: DryRun = False,
    update_lock: UpdateLock = False,
) -> None:
    """Download the weights and check them.

    Resumes an interrupted download, caches by digest, and locks the digest in weights.lock.
    """
    begin(as_json=as_json, allow_outside=allow_outside)
    model = load_model(model_dir)
    if dry_run:
        return planned("fetch", [fetch.planned(model_dir, model, cache=weights_cache())])
    with Workspace(model_dir).lock():
        fetched = Relay(model_dir, progress.progress(), update_lock).fetch(model)
    result = {
        "path": str(fetched.path),
        "size": fetched.size,
        "sha256": fetched.sha256,
        "source": fetched.source,
        "skipped": fetched.cached,
    }
    return done(result, f"{fetched.path}  {fetched.size} bytes  sha256:{fetched.sha256}")
