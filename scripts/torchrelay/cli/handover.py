"""The verbs between the jobs of a workflow: what to build, what to hand over, and how its answers differ from what is live."""

from pathlib import Path
from typing import Annotated

import typer

from torchrelay.cli.console import DEFAULT_DIR, AsJson, DryRun, ModelDir, app, begin, done, option, planned
from torchrelay.core import progress
from torchrelay.core.workspace import Workspace

Root = Annotated[Path, typer.Argument(envvar="TORCHRELAY_ROOT", help="Top of the checked-out repository.", show_default=".")]
Models = Annotated[
    str | None, option("models", "Folders with a model.yaml, or globs of them, one a line. Default: every such folder.")
]
InputsJson = Annotated[str, option("inputs", "Inputs of serve.yml, as one JSON object.")]
BaseRef = Annotated[str, option("base-ref", "Commit or branch to compare with. Default: what the event on GitHub says.")]
DEFAULT_ROOT = Path()


@app.command()
def plan(
    root: Root = DEFAULT_ROOT, models: Models = None, inputs: InputsJson = "", base_ref: BaseRef = "", as_json: AsJson = False
) -> None:
    """Say which models changed.

    Reads git, the event and the inputs, refuses what is malformed, and gives the matrix of the jobs to come.
    """
    from dataclasses import replace  # noqa: PLC0415 -- each verb imports only what it needs: --help stays fast

    from torchrelay.workflow import inputs as serve_inputs  # noqa: PLC0415
    from torchrelay.workflow import plan as planning  # noqa: PLC0415

    begin(as_json=as_json)
    given = serve_inputs.parse_inputs(inputs)
    if models:
        given = replace(given, models=serve_inputs.check_inputs({"models": models}).models)
    made = planning.plan_run(root, given, base_ref=base_ref)
    rows = [f"{model.name}  {model.dir}" for model in made.models]
    done(made.summary(), "\n".join([made.reason, *rows]))


@app.command()
def bundle(
    output: Annotated[Path, option("output", "Folder to write; empty, missing, or a bundle.")],
    model_dir: ModelDir = DEFAULT_DIR,
    as_json: AsJson = False,
    dry_run: DryRun = False,
) -> None:
    """Pack what was proved.

    Image, verdict, samples and source in one folder, for push and deploy in another job, which needs nothing else of the model.
    """
    from torchrelay.stages.relay import bundle_only  # noqa: PLC0415 -- as in plan

    begin(as_json=as_json)
    if dry_run:
        return planned("bundle", [f"write the proved image and its verdict into {output}"])
    with Workspace(model_dir).lock():
        written = bundle_only(model_dir, output, progress.progress())
    return done(written.summary(), f"{written.folder}  {written.digest}")


@app.command()
def diff(
    live_url: Annotated[str, option("live-url", "Address of the live endpoint; /predictions/NAME is added when it is missing.")],
    model_dir: ModelDir = DEFAULT_DIR,
    as_json: AsJson = False,
    dry_run: DryRun = False,
) -> None:
    """Compare with what is live.

    Sends every sample to the live endpoint, and says how the answers that verify got differ. Changes nothing.
    """
    from torchrelay.stages.relay import Relay  # noqa: PLC0415 -- as in plan

    begin(as_json=as_json)
    if dry_run:
        return planned("diff", [f"send every sample to {live_url}"])
    with Workspace(model_dir).lock():
        made = Relay(model_dir, progress.progress()).diff(live_url)
    rows = [f"{row.name}: {difference}" for row in made.samples for difference in row.differences]
    head = (
        f"{made.summary()['changed']} of {len(made.samples)} answers differ" if made.reachable else f"not compared: {made.reason}"
    )
    return done(made.summary(), "\n".join([f"{made.url}: {head}", *rows]))
