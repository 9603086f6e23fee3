"""`torchrelay samples record`."""

from pathlib import Path
from typing import Annotated

import typer

from torchrelay.authoring import record
from torchrelay.cli.console import DEFAULT_DIR, AllowOutside, AsJson, DryRun, ModelDir, begin, done, option, planned
from torchrelay.core import progress
from torchrelay.core.errors import GateFailed
from torchrelay.core.urls import require_url
from torchrelay.core.workspace import Workspace
from torchrelay.model.model import Model
from torchrelay.model.samples import Sample, load_samples
from torchrelay.model.server_config import load_model
from torchrelay.stages import verify
from torchrelay.verification.prober import HttpProber, ProbeAnswer

app = typer.Typer(help="Record what samples expect.", no_args_is_help=True, add_completion=False, rich_markup_mode=None)


@app.callback()
def root() -> None:
    """Record what samples expect."""


@app.command("record")
def run(
    model_dir: ModelDir = DEFAULT_DIR,
    url: Annotated[str | None, option("url", "Address of a running server to ask. Default: the image, built and started.")] = None,
    everything: Annotated[bool, option("all", "Also replace the expected answers that are already recorded.")] = False,
    allow_outside: AllowOutside = False,
    as_json: AsJson = False,
    dry_run: DryRun = False,
) -> None:
    """Record a run's answers as expected.

    Fills in the samples that expect nothing yet. Review them before you commit them.
    """
    begin(as_json=as_json, allow_outside=allow_outside)
    if url is not None:
        require_url("url", url)
    model = load_model(model_dir)
    samples = [one for one in load_samples(model_dir, model, unrecorded=True) if everything or one.expect.kind == "missing"]
    if not samples:
        return done({"recorded": 0, "changed": []}, "every sample has its expected answer; --all records them again")
    if dry_run:
        return planned("samples record", [f"write the answer to {sample.name} into {sample.file}" for sample in samples])
    with Workspace(model_dir).lock():
        replies = _replies(model_dir, model, samples, url)
        if replies and all(one.error for one in replies) and url is not None:
            raise GateFailed(f"{url}: {replies[0].error}", "no sample was changed; check the address, and that the endpoint is up")
        failed = [f"{one.id}: {one.error or f'status {one.status}'}" for one in replies if one.error or one.status >= 500]
        if failed:
            raise GateFailed("; ".join(failed), "no sample was changed; fix the model, then record again")
        answers = {one.id: record.Answer(one.status, one.content_type, one.body) for one in replies}
        changed = record.record(model_dir, samples, answers)
    result = {"recorded": len(answers), "changed": [str(path) for path in changed]}
    return done(result, "\n".join(f"review {path}" for path in changed) or "nothing changed")


def _replies(model_dir: Path, model: Model, samples: list[Sample], url: str | None) -> list[ProbeAnswer]:
    """Return each sample's reply, sent alone: to an address, or to the image of this directory."""
    requests = record.requests(model, samples)
    if url is not None:
        return HttpProber(url).send(requests, 1, model.timeouts.response_s + 5)
    return verify.ask(model_dir, model, samples, requests, progress.progress())
