"""`torchrelay export-fastai`."""

import re
from pathlib import Path
from typing import Annotated

import typer

from torchrelay.authoring.fastai import export
from torchrelay.cli.console import AsJson, DryRun, begin, done, option, planned
from torchrelay.core.log import log


def run(
    learner: Annotated[Path, typer.Argument(help="File that learn.export() wrote.", show_default=False)],
    output: Annotated[Path, option("output", "Folder to write: new, or empty.")],
    trust_pickle: Annotated[bool, option("trust-pickle", "Load the file, in a sandbox: you know who made it.")] = False,
    unsafe_no_sandbox: Annotated[
        bool,
        option(
            "unsafe-no-sandbox", "Load the file even if this machine cannot isolate it: it can then do everything that you can."
        ),
    ] = False,
    python: Annotated[str | None, option("python", "Python that has fastai. Default: this one.")] = None,
    size: Annotated[str | None, option("size", "HEIGHTxWIDTH of the pictures, for a learner that does not resize them.")] = None,
    timeout: Annotated[int, option("timeout", "Longest time for loading the file, in seconds.", min=1, max=86_400)] = 600,
    as_json: AsJson = False,
    dry_run: DryRun = False,
) -> None:
    """Turn a fastai learner into a model directory.

    Weights and a network in pure PyTorch: serving it does not need fastai.
    """
    begin(as_json=as_json)
    sides = re.fullmatch(r"([1-9]\d{0,3})x([1-9]\d{0,3})", size) if size is not None else None
    if size is not None and sides is None:
        raise typer.BadParameter(f"{size!r} is not HEIGHTxWIDTH, for example 96x128", param_hint="--size")
    pixels = (int(sides[1]), int(sides[2])) if sides is not None else None
    options = export.Options(learner, output, trust_pickle, python, pixels, timeout, unsafe_no_sandbox)
    if dry_run:
        return planned("export-fastai", export.plan(options))
    exported = export.export(options)
    for warning in exported.warnings:
        log.warning("%s", warning)
    parity = f"same answers as the learner's, to {exported.difference:.1g} where the largest output is {exported.largest:.3g}"
    steps = export.next_steps(exported)
    text = "\n".join([f"wrote {output}: {', '.join(exported.files)}", parity, *(f"next: {step}" for step in steps)])
    result = {"output": str(output), "files": exported.files, "handler": exported.handler, "classes": exported.classes}
    parities = {"difference": exported.difference, "largest": exported.largest}
    return done(result | parities | {"warnings": exported.warnings, "next_steps": steps}, text)
