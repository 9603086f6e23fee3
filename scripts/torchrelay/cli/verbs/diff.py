"""`torchrelay diff`."""

from typing import Annotated

from torchrelay.cli.console import DEFAULT_DIR, AllowOutside, AsJson, DryRun, ModelDir, begin, done, option, planned
from torchrelay.core import progress
from torchrelay.core.workspace import Workspace
from torchrelay.stages.relay import Relay


def run(
    live_url: Annotated[str, option("live-url", "Address of the live endpoint; /predictions/NAME is added when it is missing.")],
    model_dir: ModelDir = DEFAULT_DIR,
    allow_outside: AllowOutside = False,
    as_json: AsJson = False,
    dry_run: DryRun = False,
) -> None:
    """Compare with what is live.

    Sends every sample to the live endpoint and compares its answers with those of the verified image. Changes nothing.
    """
    begin(as_json=as_json, allow_outside=allow_outside)
    if dry_run:
        return planned("diff", [f"send every sample to {live_url}"])
    with Workspace(model_dir).lock():
        compared = Relay(model_dir, progress.progress()).diff(live_url)
    rows = [f"{row.name}: {difference}" for row in compared.samples for difference in row.differences]
    head = (
        f"{compared.changed} of {len(compared.samples)} answers differ"
        if compared.reachable
        else f"not compared: {compared.reason}"
    )
    return done(compared.summary(), "\n".join([f"{compared.url}: {head}", *rows]))
