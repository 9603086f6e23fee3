"""The command line: one verb per file in `verbs/`; the only place that catches errors and sets exit codes."""

import errno
import importlib
import logging
import os
import sys
import threading
from collections.abc import Callable
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from torchrelay import __version__
from torchrelay.cli.console import INVOCATION, Invocation, described
from torchrelay.cli.signals import Interrupts, ignore
from torchrelay.core import runner
from torchrelay.core.errors import DiskFull, Interrupted, ModelInvalid, SystemRefused, TorchrelayError
from torchrelay.core.log import configure_logging
from torchrelay.core.paths import cache_dir
from torchrelay.stages import error_file

VERBS = {
    "check": "Find every mistake, with file and line.",
    "fetch": "Download the weights and check them.",
    "archive": "Write the model archive (.mar).",
    "build": "Build the image.",
    "verify": "Verify the image on its samples.",
    "push": "Push exactly the verified image.",
    "deploy": "Deploy the verified image.",
    "relay": "Run every stage, in this order.",
    "init": "Write a new model directory.",
    "export-fastai": "Turn a fastai learner into a model directory.",
    "status": "Show what is currently deployed.",
    "invoke": "Send one request to the endpoint.",
    "logs": "Print the end of the server's log.",
    "rollback": "Restore the previous version.",
    "delete": "Remove everything that deploy created.",
    "plan": "List the models that changed.",
    "bundle": "Pack the verified image for another job.",
    "diff": "Compare with what is live.",
    "sbom": "List what the image contains.",
    "attest": "Sign what was verified.",
    "login": "Get short-lived credentials for the steps after this one.",
    "doctor": "Check that everything a deployment needs is available.",
    "summary": "Summarise one model's run.",
    "report": "Combine every model's result into one report.",
    "samples": "Record what samples expect.",
}
"""Every verb, in the order of the help text, with the first sentence of its help."""


class Verbs(TyperGroup):
    """Loads the module of a verb only when that verb is called, so that `--help` and each verb start fast."""

    def list_commands(self, _context: Any) -> list[str]:
        """Return the verbs in the order of the help text."""
        return list(VERBS)

    def get_command(self, _context: Any, cmd_name: str) -> Any:
        """Return the command of a verb, None for an unknown one."""
        if cmd_name not in VERBS:
            return None
        module = importlib.import_module(f"torchrelay.cli.verbs.{cmd_name.replace('-', '_')}")
        single = getattr(module, "app", None)
        if single is None:
            single = typer.Typer(add_completion=False, rich_markup_mode=None)
            single.command(cmd_name)(module.run)
        command = typer.main.get_command(single)
        command.name = cmd_name
        return command

    def format_commands(self, _context: Any, formatter: Any) -> None:
        """Write the table of verbs without loading them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))


app = typer.Typer(
    name="torchrelay",
    cls=Verbs,
    help="A PyTorch model directory in, a verified and running endpoint out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", envvar="TORCHRELAY_VERBOSE", help="Log every command and step.")
    ] = False,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """A PyTorch model directory in, a verified and running endpoint out."""
    invocation = INVOCATION.get()
    invocation.verb = context.invoked_subcommand or ""
    configure_logging(verbose=verbose, folder=lambda: invocation.folder)
    if version:
        sys.stdout.write(f"torchrelay {__version__}\n")
        raise typer.Exit


def _as_json(error: TorchrelayError) -> str:
    fields: dict[str, Any] = {"kind": error.kind, "message": error.message, "fix": error.fix, "exit_code": error.exit_code}
    if isinstance(error, ModelInvalid):
        fields["problems"] = [vars(problem) for problem in error.problems]
    return runner.as_json({"error": fields}) + "\n"


def _fail(error: TorchrelayError, interrupts: Interrupts) -> int:
    interrupts.reported = True
    invocation = INVOCATION.get()
    if invocation.json:
        sys.stdout.write(_as_json(error))
    sys.stderr.write(described(error))
    error_file.keep(invocation.folder, invocation.verb, error)
    runner.failed(error, invocation.folder)
    return error.exit_code


def end_at_once() -> int:
    """Report a second Ctrl-C or TERM, whatever the first one waits for."""
    error = Interrupted("interrupted twice, so ended at once", "run it again: it removes what this run left")
    if INVOCATION.get().json:
        os.write(1, _as_json(error).encode())
    os.write(2, described(error).encode())
    runner.resume_at_once()
    return error.exit_code


def _translated(error: BaseException) -> TorchrelayError:
    """Return the error to report to the user."""
    if isinstance(error, TorchrelayError):
        return error
    if not isinstance(error, OSError):
        return Interrupted("interrupted", "run it again; completed work is kept")
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull(f"no room left on the disk ({error.filename or cache_dir()})", "free some space and run it again")
    where = f"{error.filename}: " if error.filename else ""
    return SystemRefused(f"{where}{error.strerror or error}", "check that the file exists and that this user may use it")


def run(arguments: list[str], application: Callable[..., Any] = app, interrupts: Interrupts | None = None) -> int:
    """Run one command and return its exit code."""
    INVOCATION.set(Invocation())
    logging.raiseExceptions = False
    try:
        return _run(arguments, application, interrupts or Interrupts())
    finally:
        runner.resume()


def _run(arguments: list[str], application: Callable[..., Any], interrupts: Interrupts) -> int:
    try:
        result = application(arguments, standalone_mode=False)
    except typer.Exit as error:
        return error.exit_code
    except typer.TyperException as error:
        text = error.format_message()
        without_arguments = not arguments  # the text is the whole help then
        sys.stderr.write(f"{text}\n" if without_arguments else f"torchrelay: {text} (see --help)\n")
        runner.send(runner.annotation("error", "no verb" if without_arguments else text, title="usage"))
        return error.exit_code
    except SystemExit:  # typer raises it when the reader of our output went away
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (Exception, KeyboardInterrupt) as error:
        foreseen = isinstance(error, TorchrelayError | OSError | typer.Abort | KeyboardInterrupt)
        # a signal inside of threading's Condition.wait ends as its RuntimeError, "release unlocked lock"
        if not (foreseen or interrupts.caused(error)):
            raise
        return _fail(_translated(error), interrupts)
    if result == Interrupted.exit_code:  # typer returns it for Ctrl-C
        return _fail(_translated(KeyboardInterrupt()), interrupts)
    return result if isinstance(result, int) else 0


def main() -> NoReturn:
    """Entry point of the `torchrelay` command."""
    interrupts = Interrupts()
    INVOCATION.set(Invocation())  # a signal may arrive before `run` sets it
    interrupts.install(end_at_once)
    runner.shield()
    code = run(sys.argv[1:], interrupts=interrupts)
    ignore()
    if code and threading.active_count() > 1:
        # Everything is written; a thread that still waits for a silent registry is not waited for.
        logging.shutdown()
        sys.stdout.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    main()
