"""What every verb shares: the application, the options they have in common, and how a result is printed."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from torchrelay.core import runner
from torchrelay.stages import error_file

app = typer.Typer(
    name="torchrelay",
    help="A PyTorch model directory in, a proved and running endpoint out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


class Output:
    """How this run prints its result, and what it is about; set once, by the command line and by `begin`."""

    json = False
    stage = ""  # the verb
    folder: Path | None = None  # the model directory or the bundle; None for a verb that has neither


def _folder(given: Path | None) -> Path | None:
    """Take note of the folder that a verb works on; a bundle comes before a model directory."""
    if given is not None:
        Output.folder = Path(given)
    return given


def _unless_bundle(given: Path) -> Path:
    if Output.folder is None:
        Output.folder = given
    return given


def option(flag: str, help_text: str, **more: Any) -> Any:
    """Return a flag that is also TORCHRELAY_<FLAG>; an empty variable counts as absent. --bundle is taken note of."""
    if flag == "bundle":
        more.setdefault("callback", _folder)
    return typer.Option(f"--{flag}", envvar=f"TORCHRELAY_{flag.upper().replace('-', '_')}", help=help_text, **more)


ModelDir = Annotated[
    Path,
    typer.Argument(envvar="TORCHRELAY_MODEL_DIR", help="Folder that holds model.yaml.", show_default=".", callback=_unless_bundle),
]
Bundle = Annotated[Path | None, option("bundle", "Folder that `torchrelay bundle` wrote. No model directory is read then.")]
AsJson = Annotated[bool, option("json", "Print the result as one JSON object on stdout.")]
DryRun = Annotated[bool, option("dry-run", "Say what would be done, and do nothing.")]
Target = Annotated[
    str | None,
    option("target", "kubernetes, docker or local. Default: the first one that model.yaml names, docker when it names none."),
]
DEFAULT_DIR = Path()


def begin(*, as_json: bool) -> None:
    """Take the choice of output; every verb calls it first. From here on the runner takes no command that is not ours."""
    Output.json = as_json
    runner.Annotations.folder = Output.folder
    runner.stop()
    error_file.clear(Output.folder, Output.stage)


def done(result: dict[str, Any], text: str) -> None:
    """Print the result on stdout, as JSON or as a line of text, and write it as outputs of the step."""
    sys.stdout.write((runner.as_json(result) if Output.json else text) + "\n")
    sys.stdout.flush()
    runner.outputs(result)


def planned(stage: str, steps: list[str]) -> None:
    """Print what a dry run would have done."""
    done({"stage": stage, "dry_run": True, "would": steps}, "\n".join(f"would {step}" for step in steps))
