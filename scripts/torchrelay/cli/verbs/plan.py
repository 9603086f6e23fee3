"""`torchrelay plan`."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from torchrelay.cli.console import AsJson, begin, done, option
from torchrelay.workflow import plan
from torchrelay.workflow.inputs import check_inputs, parse_inputs

DEFAULT_ROOT = Path()


def run(
    root: Annotated[
        Path, typer.Argument(envvar="TORCHRELAY_ROOT", help="Top of the checked-out repository.", show_default=".")
    ] = DEFAULT_ROOT,
    models: Annotated[
        str | None,
        option("models", "Folders that contain a model.yaml, or globs of them, one per line. Default: every such folder."),
    ] = None,
    inputs: Annotated[str, option("inputs", "Inputs of serve.yml, as one JSON object.")] = "",
    base_ref: Annotated[str, option("base-ref", "Commit or branch to compare with. Default: taken from the event on GitHub.")] = "",
    as_json: AsJson = False,
) -> None:
    """List the models that changed.

    Reads git, the event and the inputs, rejects malformed ones, and prints the matrix of the jobs to come.
    """
    begin(as_json=as_json)
    parsed = parse_inputs(inputs)
    if models:
        parsed = replace(parsed, models=check_inputs({"models": models}).models)
    planned = plan.plan_run(root, parsed, base_ref=base_ref)
    rows = [f"{model.name}  {model.dir}" for model in planned.models]
    done(planned.summary(), "\n".join([planned.reason, *rows]))
