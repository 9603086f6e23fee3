"""The command line: one verb per stage, thin over the modules; the only place that catches errors and sets exit codes."""

import errno
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer

from torchrelay import __version__, report
from torchrelay.console import DEFAULT_DIR, AsJson, DryRun, ModelDir, Output, Target, app, begin, done, option, planned
from torchrelay.errors import DiskFull, Interrupted, ModelInvalid, SystemRefused, TorchrelayError
from torchrelay.layout import cache_dir
from torchrelay.workspace import Workspace

Repository = Annotated[
    str | None, option("repository", "host/repository[:tag] to push to; one that ends in / gets the model's name.")
]
CreateRepository = Annotated[
    bool, option("create-repository", "Create the ECR repository, with immutable tags and scan on push, when it is missing.")
]
UpdateLock = Annotated[bool, option("update-lock", "Accept weights that differ from weights.lock, and lock these.")]


@app.callback(invoke_without_command=True)
def root(
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", envvar="TORCHRELAY_VERBOSE", help="Log every command and step.")
    ] = False,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """A PyTorch model directory in, a proved and running endpoint out."""
    report.configure_logging(verbose=verbose)
    if version:
        sys.stdout.write(f"torchrelay {__version__}\n")
        raise typer.Exit


@app.command()
def check(model_dir: ModelDir = DEFAULT_DIR, as_json: AsJson = False, dry_run: DryRun = False) -> None:
    """Find every mistake, with file and line.

    Reads model.yaml, its samples and every file they name; runs no code of the model.
    """
    from torchrelay.check import check as run_check  # noqa: PLC0415 -- each verb imports only what it needs: --help stays fast

    begin(as_json=as_json)
    if dry_run:
        return planned("check", [f"read {model_dir / 'model.yaml'} and every file it names"])
    found = run_check(model_dir)
    for warning in found.warnings:
        report.log.warning("%s", warning)
    result = {
        "model": found.model.name,
        "samples": len(found.samples),
        "warnings": [str(warning) for warning in found.warnings],
        "result": "passed",
    }
    return done(result, f"{found.model.name}: no mistakes; {len(found.samples)} samples")


@app.command()
def fetch(
    model_dir: ModelDir = DEFAULT_DIR, as_json: AsJson = False, dry_run: DryRun = False, update_lock: UpdateLock = False
) -> None:
    """Bring the weights here, checksummed.

    Resumes what was cut off, caches by digest, and locks the digest in weights.lock.
    """
    from torchrelay import fetch as fetching  # noqa: PLC0415 -- as in check
    from torchrelay.model import load_model  # noqa: PLC0415

    begin(as_json=as_json)
    model = load_model(model_dir)
    if dry_run:
        return planned("fetch", [fetching.planned(model_dir, model, cache=cache_dir())])
    with Workspace(model_dir).lock():
        got = fetching.fetch(model_dir, model, cache=cache_dir(), progress=report.progress(), update_lock=update_lock)
    result = {"path": str(got.path), "size": got.size, "sha256": got.sha256, "source": got.source, "skipped": got.cached}
    return done(result, f"{got.path}  {got.size} bytes  sha256:{got.sha256}")


@app.command()
def archive(
    model_dir: ModelDir = DEFAULT_DIR,
    as_json: AsJson = False,
    dry_run: DryRun = False,
    output: Annotated[Path | None, option("output", "File (or folder, for no-archive) to write. Default: in .torchrelay/.")] = None,
    format_: Annotated[str, option("format", "mar, tgz or no-archive.")] = "mar",
) -> None:
    """Write the model archive (.mar).

    Stock TorchServe loads it; the same inputs give the same bytes.
    """
    from torchrelay import archive as archiving  # noqa: PLC0415 -- as in check
    from torchrelay.check import check as run_check  # noqa: PLC0415
    from torchrelay.check import resolved_version  # noqa: PLC0415
    from torchrelay.fetch import fetch as run_fetch  # noqa: PLC0415

    begin(as_json=as_json)
    if format_ not in archiving.SUFFIX:
        raise typer.BadParameter(f"{format_!r} is none of {', '.join(archiving.SUFFIX)}", param_hint="--format")
    checked = run_check(model_dir)
    version = resolved_version(checked.model, model_dir)
    default = Workspace(model_dir).root / f"{checked.model.name}{archiving.SUFFIX[format_]}"
    if dry_run:
        return planned("archive", [f"write {output or default} of version {version}"])
    progress = report.progress()
    with Workspace(model_dir).lock():
        fetched = run_fetch(model_dir, checked.model, cache=cache_dir(), progress=progress)
        if format_ == "mar":
            made = archiving.archive(model_dir, checked.model, fetched, version, progress, output=output)
            return done(made.summary(), f"{made.path}{'  (already there)' if made.skipped else ''}")
        path = output or default
        archiving.export(model_dir, checked.model, fetched, version, progress, format_, path)
    return done({"path": str(path), "format": format_, "version": version}, str(path))


def _staged(model_dir: Path, last: str, *, dry: list[str] | None, as_json: bool) -> Any:
    """Run check, fetch, archive and then `last` under the directory's lock; returns the runner and what `last` gave."""
    from torchrelay.relay import Relay  # noqa: PLC0415 -- as in check

    begin(as_json=as_json)
    runner = Relay(model_dir, report.progress())
    checked = runner.check()
    if dry is not None:
        return planned(last, dry)
    with Workspace(model_dir).lock():
        archived = runner.archive(checked, runner.fetch(checked))
        built = runner.build(checked, archived)
        return runner.verify(checked) if last == "verify" else built


@app.command()
def build(model_dir: ModelDir = DEFAULT_DIR, as_json: AsJson = False, dry_run: DryRun = False) -> None:
    """Compose the image.

    Runtime, dependencies, weights and handler are separate layers: an edit moves its own alone.
    """
    steps = ["compose runtime, dependencies, weights and handler layers into .torchrelay/image.json"] if dry_run else None
    built = _staged(model_dir, "build", dry=steps, as_json=as_json)
    if built is not None:
        done(built.summary(), f"{built.image.digest}{'  (already built)' if built.skipped else ''}")


@app.command()
def verify(model_dir: ModelDir = DEFAULT_DIR, as_json: AsJson = False, dry_run: DryRun = False) -> None:
    """Prove the image on its samples.

    Starts it without a network, sends every sample alone and among others, and writes verdict.json.
    """
    from torchrelay.verify import summary  # noqa: PLC0415 -- as in check

    steps = ["start the image with no network and a read-only root, and replay every sample"] if dry_run else None
    verdict = _staged(model_dir, "verify", dry=steps, as_json=as_json)
    if verdict is not None:
        done(summary(verdict), f"{verdict.model} {verdict.version}: {verdict.result}, {len(verdict.samples)} samples")


@app.command()
def push(
    repository: Annotated[str, option("repository", "host/repository[:tag]; one that ends in / gets the model's name.")],
    model_dir: ModelDir = DEFAULT_DIR,
    as_json: AsJson = False,
    dry_run: DryRun = False,
    create_repository: CreateRepository = False,
) -> None:
    """Push exactly the verified image.

    Only the blobs that the registry lacks travel.
    """
    from torchrelay.model import load_model  # noqa: PLC0415 -- as in check
    from torchrelay.push import push as run_push  # noqa: PLC0415

    begin(as_json=as_json)
    destination = _destination(repository, load_model(model_dir).name)
    if dry_run:
        return planned("push", [f"push the verified image to {destination}"])
    with Workspace(model_dir).lock():
        pushed = run_push(model_dir, destination, report.progress(), create=create_repository)
    return done(pushed.summary(), f"{pushed.reference}  {pushed.bytes} bytes sent")


def _destination(repository: str, name: str) -> str:
    return repository + name if repository.endswith("/") else repository


@app.command()
def deploy(model_dir: ModelDir = DEFAULT_DIR, target: Target = None, as_json: AsJson = False, dry_run: DryRun = False) -> None:
    """Put the proved image into service.

    A version that fails its samples never answers a user.
    """
    from torchrelay.model import load_model  # noqa: PLC0415 -- as in check
    from torchrelay.relay import deploy_only, deploy_plan  # noqa: PLC0415

    begin(as_json=as_json)
    steps = deploy_plan(load_model(model_dir), target)
    if dry_run:
        return planned("deploy", steps)
    with Workspace(model_dir).lock():
        result = deploy_only(model_dir, report.progress(), target=target)
    return done(result, result["endpoint"]["url"])


@app.command()
def relay(
    model_dir: ModelDir = DEFAULT_DIR,
    target: Target = None,
    repository: Repository = None,
    create_repository: CreateRepository = False,
    update_lock: UpdateLock = False,
    as_json: AsJson = False,
    dry_run: DryRun = False,
) -> None:
    """Run every stage, in this order.

    What is done already, by digest, is skipped. Without --repository nothing is pushed.
    """
    from torchrelay.model import load_model  # noqa: PLC0415 -- as in check
    from torchrelay.relay import relay as run_relay  # noqa: PLC0415
    from torchrelay.relay import relay_plan  # noqa: PLC0415

    begin(as_json=as_json)
    model = load_model(model_dir)
    destination = _destination(repository, model.name) if repository else None
    steps = relay_plan(model, target, destination)
    if dry_run:
        return planned("relay", steps)
    with Workspace(model_dir).lock():
        result = run_relay(
            model_dir,
            report.progress(),
            target=target,
            repository=destination,
            create_repository=create_repository,
            update_lock=update_lock,
        )
    return done(result, result["endpoint"]["url"])


from torchrelay import author_verbs, endpoint_verbs  # noqa: E402, F401 -- they register after the stages: help keeps that order


def _as_json(error: TorchrelayError) -> str:
    told: dict[str, Any] = {"kind": error.kind, "message": error.message, "fix": error.fix, "exit_code": error.exit_code}
    if isinstance(error, ModelInvalid):
        told["problems"] = [vars(problem) for problem in error.problems]
    return json.dumps({"error": told}) + "\n"


def _fail(error: TorchrelayError) -> int:
    Stop.told = True
    if Output.json:
        sys.stdout.write(_as_json(error))
    sys.stderr.write(f"torchrelay: {error}\n")
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
    """What came of Ctrl-C or TERM in this process."""

    asked = False
    told = False


def _on_signal(_signal: int, _frame: FrameType | None) -> None:
    """End with every container removed and every file whole; the second time at once, whatever the first one waits for."""
    if Stop.told:
        return
    if Stop.asked:
        error = Interrupted("interrupted twice, so ended at once", "run it again: it removes what this run left")
        if Output.json:
            os.write(1, _as_json(error).encode())
        os.write(2, f"torchrelay: {error}\n".encode())
        os._exit(error.exit_code)
    Stop.asked = True
    raise KeyboardInterrupt


def run(arguments: list[str], application: Callable[..., Any] = app) -> int:
    """Run one command and return its exit code."""
    Output.json = False
    logging.raiseExceptions = False
    try:
        result = application(arguments, standalone_mode=False)
    except typer.Exit as error:
        return error.exit_code
    except typer.TyperException as error:
        sys.stderr.write(f"torchrelay: {error.format_message()} (see --help)\n")
        return error.exit_code
    except SystemExit:  # what typer makes of a reader of our output that went away
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (TorchrelayError, OSError, typer.Abort, KeyboardInterrupt) as error:
        return _fail(_translated(error))
    if result == Interrupted.exit_code:  # what typer makes of Ctrl-C
        return _fail(_translated(KeyboardInterrupt()))
    return result if isinstance(result, int) else 0


def main() -> NoReturn:
    """Entry point of the `torchrelay` command."""
    signal.signal(signal.SIGTERM, _on_signal)
    signal.signal(signal.SIGINT, _on_signal)
    code = run(sys.argv[1:])
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
