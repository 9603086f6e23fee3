"""`torchrelay verify`."""

from torchrelay.cli.console import DEFAULT_DIR, AllowOutside, AsJson, DryRun, ModelDir, begin, done, planned
from torchrelay.core import progress
from torchrelay.core.workspace import Workspace
from torchrelay.stages import verify
from torchrelay.stages.relay import Relay


def run(
    model_dir: ModelDir = DEFAULT_DIR,
    allow_outside: AllowOutside = False,
    as_json: AsJson = False,
    dry_run: DryRun = False,
) -> None:
    """Verify the image on its samples.

    Starts it without a network, sends every sample alone and among others, and writes verdict.json.
    """
    begin(as_json=as_json, allow_outside=allow_outside)
    relay = Relay(model_dir, progress.progress(), dry=dry_run)
    checked = relay.check()
    if dry_run:
        return planned("verify", ["start the image with no network and a read-only root, and replay every sample"])
    with Workspace(model_dir).lock():
        relay.built(checked)
        verdict = relay.verify(checked)
    return done(verify.summary(verdict), f"{verdict.model} {verdict.version}: {verdict.result}, {len(verdict.samples)} samples")
