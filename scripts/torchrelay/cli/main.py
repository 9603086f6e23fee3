"""The command line: one verb per stage, thin over the modules; the only place that catches errors and sets exit codes."""

import errno
import importlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer

from torchrelay import __version__
from torchrelay.cli.console import Output, app
from torchrelay.core import runner
from torchrelay.core.errors import DiskFull, Interrupted, ModelInvalid, SystemRefused, TorchrelayError
from torchrelay.core.log import configure_logging
from torchrelay.core.paths import cache_dir
from torchrelay.stages import error_file

# Modules that register verbs when they are imported, in the order of the help text.
VERBS = ("stages", "authoring", "endpoint", "handover", "trust", "accounts", "report")
for _name in VERBS:
    importlib.import_module(f"torchrelay.cli.{_name}")


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", envvar="TORCHRELAY_VERBOSE", help="Log every command and step.")
    ] = False,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """A PyTorch model directory in, a proved and running endpoint out."""
    configure_logging(verbose=verbose)
    Output.stage = context.invoked_subcommand or ""
    if version:
        sys.stdout.write(f"torchrelay {__version__}\n")
        raise typer.Exit


def _as_json(error: TorchrelayError) -> str:
    told: dict[str, Any] = {"kind": error.kind, "message": error.message, "fix": error.fix, "exit_code": error.exit_code}
    if isinstance(error, ModelInvalid):
        told["problems"] = [vars(problem) for problem in error.problems]
    return runner.as_json({"error": told}) + "\n"


def _fail(error: TorchrelayError) -> int:
    Stop.told = True
    if Output.json:
        sys.stdout.write(_as_json(error))
    sys.stderr.write(f"torchrelay: {error}\n")
    error_file.keep(Output.folder, Output.stage, error)
    runner.failed(error, Output.folder)
    return error.exit_code


def _translated(error: BaseException) -> TorchrelayError:
    """Return the error that a person is told."""
    if isinstance(error, TorchrelayError):
        return error
    if not isinstance(error, OSError):
        return Interrupted("interrupted", "run it again: what is complete is kept, nothing is half-done")
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull(f"no room left on the disk ({error.filename or cache_dir()})", "free some space and run it again")
    where = f"{error.filename}: " if error.filename else ""
    return SystemRefused(f"{where}{error.strerror or error}", "check that the file is there and this user may use it")


class Stop:
    """What came of Ctrl-C or TERM in this process. `raised` is what was raised for it last."""

    asked = False
    told = False
    raised: BaseException | None = None


AGAIN_S = 0.5
"""Seconds between two looks whether what was raised is on its way."""


def _came_of_signal(error: BaseException | None) -> bool:
    """Whether an exception is what was raised for a signal, or was raised while that was dealt with."""
    while error is not None and Stop.raised is not None:
        if error is Stop.raised:
            return True
        error = error.__context__
    return False


def _on_alarm(_signal: int, _frame: FrameType | None) -> None:
    """Raise it once more when it was lost: what a finalizer of CPython's io raises, it clears without a word (iobase_finalize)."""
    if not Stop.told and not _came_of_signal(sys.exc_info()[1]):
        Stop.raised = KeyboardInterrupt()
        raise Stop.raised


def _on_signal(_signal: int, _frame: FrameType | None) -> None:
    """End with every container removed and every file whole; the second time at once, whatever the first one waits for."""
    if Stop.told:
        return
    if Stop.asked:
        error = Interrupted("interrupted twice, so ended at once", "run it again: it removes what this run left")
        if Output.json:
            os.write(1, _as_json(error).encode())
        os.write(2, f"torchrelay: {error}\n".encode())
        runner.resume_at_once()
        os._exit(error.exit_code)
    Stop.asked = True
    Stop.raised = KeyboardInterrupt()
    signal.signal(signal.SIGALRM, _on_alarm)
    signal.setitimer(signal.ITIMER_REAL, AGAIN_S, AGAIN_S)
    raise Stop.raised


def run(arguments: list[str], application: Callable[..., Any] = app) -> int:
    """Run one command and return its exit code."""
    Output.json, Output.stage, Output.folder = False, "", None
    logging.raiseExceptions = False
    try:
        return _run(arguments, application)
    finally:
        runner.resume()


def _run(arguments: list[str], application: Callable[..., Any]) -> int:
    try:
        result = application(arguments, standalone_mode=False)
    except typer.Exit as error:
        return error.exit_code
    except typer.TyperException as error:
        sys.stderr.write(f"torchrelay: {error.format_message()} (see --help)\n")
        runner.send(runner.annotation("error", error.format_message(), title="usage"))
        return error.exit_code
    except SystemExit:  # what typer makes of a reader of our output that went away
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (Exception, KeyboardInterrupt) as error:
        foreseen = isinstance(error, TorchrelayError | OSError | typer.Abort | KeyboardInterrupt)
        # a signal inside of threading's Condition.wait ends as its RuntimeError, "release unlocked lock"
        if not (foreseen or _came_of_signal(error)):
            raise
        return _fail(_translated(error))
    if result == Interrupted.exit_code:  # what typer makes of Ctrl-C
        return _fail(_translated(KeyboardInterrupt()))
    return result if isinstance(result, int) else 0


def main() -> NoReturn:
    """Entry point of the `torchrelay` command."""
    signal.signal(signal.SIGTERM, _on_signal)
    signal.signal(signal.SIGINT, _on_signal)
    runner.shield()
    code = run(sys.argv[1:])
    signal.setitimer(signal.ITIMER_REAL, 0)
    for late in (signal.SIGTERM, signal.SIGINT):
        signal.signal(late, signal.SIG_IGN)  # the interpreter's own end would let them kill it
    if code and threading.active_count() > 1:
        # Everything is put away; a thread that still waits for a silent registry is not waited for.
        logging.shutdown()
        sys.stdout.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    main()
