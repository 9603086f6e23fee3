"""The verbs for authors: init and export-fastai write a model directory, `samples record` fills in expected answers."""

import re
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from torchrelay.cli.console import DEFAULT_DIR, AsJson, DryRun, ModelDir, app, begin, done, option, planned
from torchrelay.core import progress
from torchrelay.core.errors import GateFailed
from torchrelay.core.log import log
from torchrelay.core.workspace import Workspace

samples_app = typer.Typer(help="Record what samples expect.", no_args_is_help=True)
app.add_typer(samples_app, name="samples")

Name = Annotated[str | None, option("name", "Name of the model. Default: the folder's.")]
Handler = Annotated[str | None, option("handler", "tensor, image-classifier or handler.py. Default: tensor.")]
Weights = Annotated[str | None, option("weights", "Path or address of the weights. Default: a stand-in.")]
Classes = Annotated[str | None, option("classes", "Class names for image-classifier, comma between them.")]
Device = Annotated[str | None, option("device", "cpu or gpu. Default: cpu.")]


@app.command()
def init(
    model_dir: ModelDir = DEFAULT_DIR,
    name: Name = None,
    handler: Handler = None,
    weights: Weights = None,
    classes: Classes = None,
    device: Device = None,
    as_json: AsJson = False,
    dry_run: DryRun = False,
) -> None:
    """Write a new model directory.

    It passes check; the answers come from flags, or from questions on a terminal.
    """
    from torchrelay.authoring import init as initialising  # noqa: PLC0415 -- each verb imports only what it needs: --help stays fast

    begin(as_json=as_json)
    answers: dict[str, str | None] = {"name": name, "handler": handler, "weights": weights, "classes": classes, "device": device}
    if sys.stdin.isatty() and not any(answers.values()):
        for question in initialising.questions(model_dir):
            if question.only_for_handler in (None, answers["handler"]):
                answers[question.field] = typer.prompt(question.text, default=question.default, err=True)
    given: dict[str, Any] = {key: value for key, value in answers.items() if value is not None}
    if "classes" in given:
        given["classes"] = tuple(part.strip() for part in given["classes"].split(",") if part.strip())
    options = initialising.InitOptions(**given)
    if dry_run:
        return planned("init", [f"write {model_dir / name}" for name in initialising.plan(model_dir, options)])
    written = initialising.init(model_dir, options)
    text = "\n".join([*(f"wrote {file}" for file in written.files), *(f"next: {step}" for step in written.next_steps)])
    return done({"files": written.files, "next_steps": written.next_steps}, text)


@app.command("export-fastai")
def export_fastai(
    learner: Annotated[Path, typer.Argument(help="File that learn.export() wrote.", show_default=False)],
    output: Annotated[Path, option("output", "Folder to write: new, or empty.")],
    trust_pickle: Annotated[bool, option("trust-pickle", "Load the file, in a sandbox: you know who made it.")] = False,
    python: Annotated[str | None, option("python", "Python that has fastai. Default: this one.")] = None,
    size: Annotated[str | None, option("size", "HEIGHTxWIDTH of the pictures, for a learner that does not resize them.")] = None,
    timeout: Annotated[int, option("timeout", "Longest time for loading the file, in seconds.", min=1, max=86_400)] = 600,
    as_json: AsJson = False,
    dry_run: DryRun = False,
) -> None:
    """Make a model directory of a fastai learner.

    Weights and a network in pure PyTorch: nothing that serves it needs fastai.
    """
    from torchrelay.authoring.fastai import export  # noqa: PLC0415 -- as in init

    begin(as_json=as_json)
    sides = re.fullmatch(r"([1-9]\d{0,3})x([1-9]\d{0,3})", size) if size is not None else None
    if size is not None and sides is None:
        raise typer.BadParameter(f"{size!r} is not HEIGHTxWIDTH, for example 96x128", param_hint="--size")
    pixels = (int(sides[1]), int(sides[2])) if sides is not None else None
    options = export.Options(learner, output, trust_pickle, python, pixels, timeout)
    if dry_run:
        return planned("export-fastai", export.plan(options))
    made = export.export(options)
    for warning in made.warnings:
        log.warning("%s", warning)
    parity = f"same answers as the learner's, to {made.difference:.1g} where the largest output is {made.largest:.3g}"
    steps = export.next_steps(made)
    text = "\n".join([f"wrote {output}: {', '.join(made.files)}", parity, *(f"next: {step}" for step in steps)])
    result = {"output": str(output), "files": made.files, "handler": made.handler, "classes": made.classes}
    parities = {"difference": made.difference, "largest": made.largest}
    return done(result | parities | {"warnings": made.warnings, "next_steps": steps}, text)


@samples_app.command("record")
def record(
    model_dir: ModelDir = DEFAULT_DIR,
    url: Annotated[str | None, option("url", "Address of a running server to ask. Default: the image, built and started.")] = None,
    everything: Annotated[bool, option("all", "Record samples anew that have an expected answer already.")] = False,
    as_json: AsJson = False,
    dry_run: DryRun = False,
) -> None:
    """Record a run's answers as expected.

    Fills in the samples that expect nothing yet. Review them before you commit them.
    """
    from torchrelay.authoring import record as recording  # noqa: PLC0415 -- as in init
    from torchrelay.model.samples import load_samples  # noqa: PLC0415
    from torchrelay.model.server_config import load_model  # noqa: PLC0415

    begin(as_json=as_json)
    model = load_model(model_dir)
    samples = [one for one in load_samples(model_dir, model, unrecorded=True) if everything or one.expect.kind == "missing"]
    if not samples:
        return done({"recorded": 0, "changed": []}, "every sample has its expected answer; --all records them anew")
    if dry_run:
        return planned("samples record", [f"write the answer to {sample.name} into {sample.file}" for sample in samples])
    with Workspace(model_dir).lock():
        answers = _answers(model_dir, model, samples, url)
        failed = [
            f"{name}: {one.error or f'status {one.status}'}" for name, one in answers.items() if one.error or one.status >= 500
        ]
        if failed:
            raise GateFailed("; ".join(failed), "no sample was changed; mend the model, then record again")
        found = {name: recording.Answer(one.status, one.content_type, one.body) for name, one in answers.items()}
        changed = recording.record(model_dir, samples, found)
    result = {"recorded": len(found), "changed": [str(path) for path in changed]}
    return done(result, "\n".join(f"review {path}" for path in changed) or "nothing changed")


def _answers(model_dir: Path, model: Any, samples: list[Any], url: str | None) -> dict[str, Any]:
    """Return each sample's answer, sent alone: by an address, or by the image of this directory."""
    from torchrelay.authoring import record as recording  # noqa: PLC0415 -- as in init
    from torchrelay.verification.prober import HttpProber  # noqa: PLC0415 -- as in init

    requests = recording.requests(model, samples)
    if url is not None:
        found = HttpProber(url).send(requests, 1, model.timeouts.response_s + 5)
    else:
        from torchrelay.stages.verify import ask  # noqa: PLC0415

        found = ask(model_dir, model, samples, requests, progress.progress())
    return {answer.id: answer for answer in found}
