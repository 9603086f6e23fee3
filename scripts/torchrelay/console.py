"""What every verb shares: the application, the options they have in common, and how a result is printed."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    name="torchrelay",
    help="A PyTorch model directory in, a proved and running endpoint out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def option(flag: str, help_text: str, **more: Any) -> Any:
    """Return a flag that is also TORCHRELAY_<FLAG>; an empty variable counts as absent."""
    return typer.Option(f"--{flag}", envvar=f"TORCHRELAY_{flag.upper().replace('-', '_')}", help=help_text, **more)


ModelDir = Annotated[Path, typer.Argument(envvar="TORCHRELAY_MODEL_DIR", help="Folder that holds model.yaml.", show_default=".")]
AsJson = Annotated[bool, option("json", "Print the result as one JSON object on stdout.")]
DryRun = Annotated[bool, option("dry-run", "Say what would be done, and do nothing.")]
Target = Annotated[
    str | None, option("target", "docker or local. Default: the first one that model.yaml names, docker when it names none.")
]
DEFAULT_DIR = Path()


class Output:
    """How this run prints its result; set once by `begin`."""

    json = False


def begin(*, as_json: bool) -> None:
    """Take the choice of output; every verb calls it first."""
    Output.json = as_json


def done(result: dict[str, Any], text: str) -> None:
    """Print the result on stdout: as JSON, or as a line of text."""
    sys.stdout.write((json.dumps(result) if Output.json else text) + "\n")
    sys.stdout.flush()


def planned(stage: str, steps: list[str]) -> None:
    """Print what a dry run would have done."""
    done({"stage": stage, "dry_run": True, "would": steps}, "\n".join(f"would {step}" for step in steps))
