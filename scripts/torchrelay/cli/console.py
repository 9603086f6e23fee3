"""What every verb shares: the application, the options they have in common, and how a result is printed."""

import sys
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from torchrelay.core import runner, troubleshooting
from torchrelay.core.errors import TorchrelayError
from torchrelay.model.outside import PERMISSION
from torchrelay.stages import error_file


@dataclass
class Invocation:
    """One call of the command: how it prints its result, and what it works on."""

    json: bool = False
    verb: str = ""
    folder: Path | None = None
    """The model directory or the bundle; None for a verb that has neither."""


INVOCATION: ContextVar[Invocation] = ContextVar("invocation")
"""The current call. `main.run` sets it; typer has no public way to reach the current context from a function."""


def _note_folder(folder: Path | None) -> Path | None:
    """Note the folder that a verb works on; a bundle comes before a model directory."""
    if folder is not None:
        INVOCATION.get().folder = Path(folder)
    return folder


def _note_unless_bundle(folder: Path) -> Path:
    invocation = INVOCATION.get()
    if invocation.folder is None:
        invocation.folder = folder
    return folder


def option(flag: str, help_text: str, **more: Any) -> Any:
    """Return an option that is also the variable TORCHRELAY_<FLAG>; an empty variable counts as absent. --bundle is noted."""
    if flag == "bundle":
        more.setdefault("callback", _note_folder)
    return typer.Option(f"--{flag}", envvar=f"TORCHRELAY_{flag.upper().replace('-', '_')}", help=help_text, **more)


def secret_option(flag: str, help_text: str) -> Any:
    """Return an option whose value is accepted from its variable only: every process on the machine can read arguments."""

    def refuse_typed(context: typer.Context, parameter: typer.CallbackParam, value: str) -> str:
        source = context.get_parameter_source(parameter.name or "")
        if source is not None and source.name == "COMMANDLINE":
            variable = f"TORCHRELAY_{flag.upper().replace('-', '_')}"
            raise typer.BadParameter(f"a secret typed here is seen by every process: set {variable}", param_hint=f"--{flag}")
        return value

    return option(flag, help_text, callback=refuse_typed)


ModelDir = Annotated[
    Path,
    typer.Argument(
        envvar="TORCHRELAY_MODEL_DIR", help="Folder that contains model.yaml.", show_default=".", callback=_note_unless_bundle
    ),
]
BundleFolder = Annotated[
    Path | None, option("bundle", "Folder that `torchrelay bundle` wrote. The model directory is not read then.")
]
AsJson = Annotated[bool, option("json", "Print the result as one JSON object on stdout.")]
DryRun = Annotated[bool, option("dry-run", "Print what would be done, and do nothing.")]
Target = Annotated[
    str | None,
    option("target", "kubernetes, docker or local. Default: the first one in model.yaml, docker when it names none."),
]
Repository = Annotated[
    str | None,
    option("repository", "Image repository to push to: host/repository[:tag]. If it ends in /, the model's name is added."),
]
CreateRepository = Annotated[
    bool, option("create-repository", "Create the ECR repository if it is missing, with immutable tags and scan on push.")
]
ExpectDigest = Annotated[
    str | None, option("expect-digest", "Expected digest of the bundle (sha256:...), as printed by `torchrelay bundle`.")
]
ExpectModel = Annotated[str | None, option("expect-model", "Expected model name in the bundle.")]
VerifyKey = Annotated[
    str | None,
    option(
        "verify-key",
        "Public keys (PEM or @FILE), one after the other. Accept only images whose passing verdict was signed by one of them.",
    ),
]
AllowOutside = Annotated[
    bool,
    option("allow-outside", "Also read weights outside of the model's git checkout. Ignored in a workflow, which refuses them."),
]
UpdateLock = Annotated[bool, option("update-lock", "Accept weights that differ from weights.lock, and lock these.")]
AwsRole = Annotated[str, option("aws-role", "ARN of the AWS role to assume with the job's own identity (OIDC).")]
AwsRegion = Annotated[str, option("aws-region", "AWS region, for example eu-west-1. Default: AWS_REGION.")]
DEFAULT_DIR = Path()


def begin(*, as_json: bool, allow_outside: bool = False) -> None:
    """Set how the result is printed; every verb calls it first. From here on the runner ignores commands from other programs."""
    invocation = INVOCATION.get()
    invocation.json = as_json
    PERMISSION.option = allow_outside
    runner.stop()
    error_file.clear(invocation.folder, invocation.verb)


def done(result: dict[str, Any], text: str) -> None:
    """Print the result on stdout, as JSON or as a line of text, and write it as outputs of the step."""
    sys.stdout.write((runner.as_json(result) if INVOCATION.get().json else text) + "\n")
    sys.stdout.flush()
    runner.outputs(result)


def planned(stage: str, steps: list[str]) -> None:
    """Print what a dry run would have done."""
    done({"stage": stage, "dry_run": True, "would": steps}, "\n".join(f"would {step}" for step in steps))


def described(error: TorchrelayError) -> str:
    """Return an error as it is printed: the message, then the fix with the address of its section of the documentation."""
    address = troubleshooting.address(error.kind)
    fix = f"{error.fix} ({address})" if error.fix else f"see {address}"
    return f"torchrelay: {error.message}\n  fix: {fix}\n"
