"""`torchrelay invoke`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from torchrelay.cli.console import DEFAULT_DIR, AsJson, ModelDir, Target, begin, done, option
from torchrelay.cli.endpoints import model_and_target
from torchrelay.core.errors import GateFailed, ModelInvalid, Problem
from torchrelay.model.model import Model, predict_path
from torchrelay.model.samples import load_samples
from torchrelay.stages import deploy
from torchrelay.verification.prober import ProbeRequest
from torchrelay.verification.replay import request_of


def run(
    model_dir: ModelDir = DEFAULT_DIR,
    target: Target = None,
    sample: Annotated[str | None, option("sample", "Name of the sample to send. Default: the first.")] = None,
    body: Annotated[Path | None, option("body", "File to send instead of a sample.")] = None,
    content_type: Annotated[str | None, option("content-type", "Content type of --body. Default: application/json.")] = None,
    as_json: AsJson = False,
) -> None:
    """Send one request to the endpoint."""
    begin(as_json=as_json)
    if body is not None and sample is not None:
        raise typer.BadParameter("use either --sample or --body")
    if content_type is not None and body is None:
        raise typer.BadParameter("--content-type needs --body")
    model, chosen = model_and_target(model_dir, target)
    if body is not None:
        request = ProbeRequest(body.name, "POST", predict_path(model.name), content_type or "application/json", body.read_bytes())
    else:
        request = _sample_request(model_dir, model, sample)
    reply = deploy.deployed(model_dir, model, chosen).invoke(request)
    if reply.error:
        raise GateFailed(f"{model.name} on {chosen}: {reply.error}", f"see `torchrelay logs --target {chosen}`")
    text = reply.body.decode(errors="replace")
    try:
        value = json.loads(text)
    except ValueError:
        value = text
    done({"status": reply.status, "content_type": reply.content_type, "body": value, "latency_ms": reply.latency_ms}, text)


def _sample_request(model_dir: Path, model: Model, name: str | None) -> ProbeRequest:
    """Return the named sample's request; without a name that of the first sample which expects a 200. Raises ModelInvalid."""
    samples = [one for one in load_samples(model_dir, model) if name in (None, one.name)]
    if not samples:
        problem = Problem(model.samples, None, "--sample", f"there is no sample {name!r}", "name one of the files there")
        raise ModelInvalid([problem])
    return request_of(model, next((one for one in samples if one.expect.status == 200), samples[0]))
