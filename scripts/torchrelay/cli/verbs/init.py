"""`torchrelay init`."""

import sys
from typing import Annotated, Any

import typer

from torchrelay.authoring import init
from torchrelay.cli.console import DEFAULT_DIR, AsJson, DryRun, ModelDir, begin, done, option, planned


def run(
    model_dir: ModelDir = DEFAULT_DIR,
    name: Annotated[str | None, option("name", "Name of the model. Default: the folder's.")] = None,
    handler: Annotated[str | None, option("handler", "tensor, image-classifier or handler.py. Default: tensor.")] = None,
    weights: Annotated[str | None, option("weights", "Path or address of the weights. Default: a small stand-in.")] = None,
    classes: Annotated[str | None, option("classes", "Class names for image-classifier, separated by commas.")] = None,
    device: Annotated[str | None, option("device", "cpu or gpu. Default: cpu.")] = None,
    as_json: AsJson = False,
    dry_run: DryRun = False,
) -> None:
    """Write a new model directory.

    It passes check. Its values come from flags, or from questions on a terminal.
    """
    begin(as_json=as_json)
    answers: dict[str, str | None] = {"name": name, "handler": handler, "weights": weights, "classes": classes, "device": device}
    if sys.stdin.isatty() and not any(answers.values()):
        for question in init.questions(model_dir):
            if question.only_for_handler in (None, answers["handler"]):
                answers[question.field] = typer.prompt(question.text, default=question.default, err=True)
    values: dict[str, Any] = {key: value for key, value in answers.items() if value is not None}
    if "classes" in values:
        values["classes"] = tuple(part.strip() for part in values["classes"].split(",") if part.strip())
    options = init.InitOptions(**values)
    if dry_run:
        return planned("init", [f"write {model_dir / file}" for file in init.plan(model_dir, options)])
    written = init.init(model_dir, options)
    text = "\n".join([*(f"wrote {file}" for file in written.files), *(f"next: {step}" for step in written.next_steps)])
    return done({"files": written.files, "next_steps": written.next_steps}, text)
