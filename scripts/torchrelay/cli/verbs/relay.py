"""`torchrelay relay`."""

from torchrelay.cli.console import (
    DEFAULT_DIR,
    AllowOutside,
    AsJson,
    CreateRepository,
    DryRun,
    ModelDir,
    Repository,
    Target,
    UpdateLock,
    begin,
    done,
    planned,
)
from torchrelay.core import progress
from torchrelay.model.server_config import load_model
from torchrelay.stages import relay


def run(
    model_dir: ModelDir = DEFAULT_DIR,
    target: Target = None,
    repository: Repository = None,
    create_repository: CreateRepository = False,
    update_lock: UpdateLock = False,
    allow_outside: AllowOutside = False,
    as_json: AsJson = False,
    dry_run: DryRun = False,
) -> None:
    """Run every stage, in this order.

    Skips what is already done, by digest. Without --repository nothing is pushed.
    """
    begin(as_json=as_json, allow_outside=allow_outside)
    if dry_run:
        return planned("relay", relay.plan(load_model(model_dir), target, repository))
    result = relay.run(
        model_dir,
        progress.progress(),
        target=target,
        repository=repository,
        create_repository=create_repository,
        update_lock=update_lock,
    )
    return done(result, result["endpoint"]["url"])
