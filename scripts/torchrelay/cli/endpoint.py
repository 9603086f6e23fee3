"""The verbs that ask or change what is deployed: status, invoke, logs, rollback, delete."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from torchrelay.cli.console import DEFAULT_DIR, AsJson, DryRun, ModelDir, Target, app, begin, done, option, planned
from torchrelay.core import progress
from torchrelay.core.errors import GateFailed, ModelInvalid, Problem
from torchrelay.core.workspace import Workspace

if TYPE_CHECKING:
    from torchrelay.model.model import Model

Sample = Annotated[str | None, option("sample", "Name of the sample to send. Default: the first.")]
Body = Annotated[Path | None, option("body", "File to send instead of a sample.")]
ContentType = Annotated[str, option("content-type", "Content type of --body.")]
Lines = Annotated[int, option("lines", "Lines from the end of the log.", min=1)]


def _chosen(model_dir: Path, target: str | None) -> "tuple[Model, str]":
    from torchrelay.model.server_config import load_model  # noqa: PLC0415 -- each verb imports only what it needs: --help stays fast

    model = load_model(model_dir)
    from torchrelay.targets import chosen_target  # noqa: PLC0415

    return model, chosen_target(model, target)


@app.command()
def status(model_dir: ModelDir = DEFAULT_DIR, target: Target = None, as_json: AsJson = False) -> None:
    """Say what answers now.

    Endpoint, version, digest and state, as seen on the target itself.
    """
    from torchrelay.stages import deploy  # noqa: PLC0415 -- as in _chosen

    begin(as_json=as_json)
    model, chosen = _chosen(model_dir, target)
    now = deploy.status(model_dir, model, chosen)
    done(now.summary(), f"{model.name} on {chosen}: {now.state} {now.version} {now.url} {now.detail}".rstrip())


@app.command()
def invoke(
    model_dir: ModelDir = DEFAULT_DIR,
    target: Target = None,
    sample: Sample = None,
    body: Body = None,
    content_type: ContentType = "application/json",
    as_json: AsJson = False,
) -> None:
    """Send one request to the endpoint."""
    from torchrelay.model.samples import load_samples  # noqa: PLC0415
    from torchrelay.stages import deploy  # noqa: PLC0415 -- as in _chosen
    from torchrelay.verification.prober import ProbeRequest  # noqa: PLC0415

    begin(as_json=as_json)
    model, chosen = _chosen(model_dir, target)
    path = f"/predictions/{model.name}"
    if body is not None:
        request = ProbeRequest(body.name, "POST", path, content_type, body.read_bytes())
    else:
        samples = [one for one in load_samples(model_dir, model) if sample in (None, one.name)]
        if not samples:
            problem = Problem(model.samples, None, "--sample", f"there is no sample {sample!r}", "name one of the files there")
            raise ModelInvalid([problem])
        first = next((one for one in samples if one.expect.status == 200), samples[0])
        request = ProbeRequest(first.name, "POST", path, first.content_type, first.body)
    answer = deploy.deployed(model_dir, model, chosen).invoke(request)
    if answer.error:
        raise GateFailed(f"{model.name} on {chosen}: {answer.error}", f"see `torchrelay logs --target {chosen}`")
    text = answer.body.decode(errors="replace")
    try:
        shown = json.loads(text)
    except ValueError:
        shown = text
    done({"status": answer.status, "content_type": answer.content_type, "body": shown, "latency_ms": answer.latency_ms}, text)


@app.command()
def logs(model_dir: ModelDir = DEFAULT_DIR, target: Target = None, lines: Lines = 200, as_json: AsJson = False) -> None:
    """Print the end of the server's log."""
    from torchrelay.stages import deploy  # noqa: PLC0415 -- as in _chosen

    begin(as_json=as_json)
    model, chosen = _chosen(model_dir, target)
    text = deploy.deployed(model_dir, model, chosen).logs(lines)
    done({"target": chosen, "log": text.splitlines()}, text.rstrip("\n"))


@app.command()
def rollback(model_dir: ModelDir = DEFAULT_DIR, target: Target = None, as_json: AsJson = False, dry_run: DryRun = False) -> None:
    """Put the previous version back.

    It has to answer its own warm-up sample again before it takes the traffic over.
    """
    from torchrelay.stages import deploy  # noqa: PLC0415 -- as in _chosen

    begin(as_json=as_json)
    model, chosen = _chosen(model_dir, target)
    if dry_run:
        return planned("rollback", [f"put the previous version of {model.name} on {chosen} back into service"])
    with Workspace(model_dir).lock():
        now = deploy.target_at(model_dir, model, chosen, progress.progress()).rollback()
    return done(now.summary(), f"{now.url} answers {now.version} again")


@app.command()
def delete(model_dir: ModelDir = DEFAULT_DIR, target: Target = None, as_json: AsJson = False, dry_run: DryRun = False) -> None:
    """Remove all that deploy made."""
    from torchrelay.stages import deploy  # noqa: PLC0415 -- as in _chosen

    begin(as_json=as_json)
    model, chosen = _chosen(model_dir, target)
    if dry_run:
        return planned("delete", [f"remove {model.name} and all that deploy made for it on {chosen}"])
    with Workspace(model_dir).lock():
        gone = deploy.target_at(model_dir, model, chosen, progress.progress()).delete()
    return done({"target": chosen, "deleted": gone}, f"{model.name} on {chosen}: {'removed' if gone else 'nothing was there'}")
