"""The command line: one verb per stage, thin over the modules; the only place that catches errors and sets exit codes."""

import errno
import json
import logging
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, NoReturn

import click
import typer

from torchrelay import __version__, report
from torchrelay.errors import DiskFull, Interrupted, ModelInvalid, SystemRefused, TorchrelayError
from torchrelay.layout import cache_dir
from torchrelay.workspace import Workspace

app = typer.Typer(
    name="torchrelay",
    help="A PyTorch model directory in, a proved and running endpoint out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
samples_app = typer.Typer(help="The samples that every version must answer.", no_args_is_help=True)
app.add_typer(samples_app, name="samples")


def _option(flag: str, help_text: str, **more: Any) -> Any:
    return typer.Option(f"--{flag}", envvar=f"TORCHRELAY_{flag.upper().replace('-', '_')}", help=help_text, **more)


ModelDir = Annotated[Path, typer.Argument(envvar="TORCHRELAY_MODEL_DIR", help="Folder that holds model.yaml.", show_default=".")]
AsJson = Annotated[bool, _option("json", "Print the result as one JSON object on stdout.")]
DryRun = Annotated[bool, _option("dry-run", "Say what would be done, and do nothing.")]
Target = Annotated[str | None, _option("target", "Where to deploy: local or docker. Default: the first one in model.yaml.")]
Repository = Annotated[
    str | None, _option("repository", "host/repository[:tag] to push to; one that ends in / gets the model's name.")
]
CreateRepository = Annotated[
    bool, _option("create-repository", "Create the ECR repository, with immutable tags and scan on push, when it is missing.")
]
UpdateLock = Annotated[bool, _option("update-lock", "Accept weights that differ from weights.lock, and lock these.")]
DEFAULT_DIR = Path()


class _State:
    json = False


def _done(result: dict[str, Any], text: str) -> None:
    """Print the result: JSON or one line, on stdout."""
    sys.stdout.write((json.dumps(result) if _State.json else text) + "\n")
    sys.stdout.flush()


def _begin(as_json: bool) -> None:
    _State.json = as_json


def _planned(stage: str, steps: list[str]) -> None:
    _done({"stage": stage, "dry_run": True, "would": steps}, "\n".join(f"would {step}" for step in steps))


@app.callback(invoke_without_command=True)
def root(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", envvar="TORCHRELAY_VERBOSE", help="Log every command and step.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """A PyTorch model directory in, a proved and running endpoint out."""
    report.configure_logging(verbose=verbose)
    if version:
        sys.stdout.write(f"torchrelay {__version__}\n")
        raise typer.Exit


@app.command()
def check(model_dir: ModelDir = DEFAULT_DIR, as_json: AsJson = False, dry_run: DryRun = False) -> None:
    """Find every mistake in model.yaml, its samples and the files it names, with file and line."""
    from torchrelay.check import check as run_check  # noqa: PLC0415 -- each verb imports only what it needs: --help stays fast

    _begin(as_json)
    if dry_run:
        return _planned("check", [f"read {model_dir / 'model.yaml'} and every file it names"])
    done = run_check(model_dir)
    for warning in done.warnings:
        report.log.warning("%s", warning)
    result = {
        "model": done.model.name,
        "samples": len(done.samples),
        "warnings": [str(warning) for warning in done.warnings],
        "result": "passed",
    }
    return _done(result, f"{done.model.name}: no mistakes; {len(done.samples)} samples")


@app.command()
def fetch(
    model_dir: ModelDir = DEFAULT_DIR, as_json: AsJson = False, dry_run: DryRun = False, update_lock: UpdateLock = False
) -> None:
    """Bring the weights here, checksummed and resumable, and lock their digest in weights.lock."""
    from torchrelay import fetch as fetching  # noqa: PLC0415 -- as in check
    from torchrelay.model import load_model  # noqa: PLC0415

    _begin(as_json)
    model = load_model(model_dir)
    if dry_run:
        return _planned("fetch", [fetching.planned(model_dir, model, cache=cache_dir())])
    with Workspace(model_dir).lock():
        done = fetching.fetch(model_dir, model, cache=cache_dir(), progress=report.progress(), update_lock=update_lock)
    result = {"path": str(done.path), "size": done.size, "sha256": done.sha256, "source": done.source, "skipped": done.cached}
    return _done(result, f"{done.path}  {done.size} bytes  sha256:{done.sha256}")


@app.command()
def archive(
    model_dir: ModelDir = DEFAULT_DIR,
    as_json: AsJson = False,
    dry_run: DryRun = False,
    output: Annotated[Path | None, _option("output", "File (or folder, for no-archive) to write. Default: in .torchrelay/.")] = None,
    format_: Annotated[str, _option("format", "mar, tgz or no-archive.")] = "mar",
) -> None:
    """Write the model archive: a .mar that TorchServe loads; the same inputs give the same bytes."""
    from torchrelay import archive as archiving  # noqa: PLC0415 -- as in check
    from torchrelay.check import check as run_check  # noqa: PLC0415
    from torchrelay.check import resolved_version  # noqa: PLC0415
    from torchrelay.fetch import fetch as run_fetch  # noqa: PLC0415

    _begin(as_json)
    if format_ not in archiving.SUFFIX:
        raise click.BadParameter(f"{format_!r} is none of {', '.join(archiving.SUFFIX)}", param_hint="--format")
    checked = run_check(model_dir)
    version = resolved_version(checked.model, model_dir)
    default = Workspace(model_dir).root / f"{checked.model.name}{archiving.SUFFIX[format_]}"
    if dry_run:
        return _planned("archive", [f"write {output or default} of version {version}"])
    progress = report.progress()
    with Workspace(model_dir).lock():
        fetched = run_fetch(model_dir, checked.model, cache=cache_dir(), progress=progress)
        if format_ == "mar":
            done = archiving.archive(model_dir, checked.model, fetched, version, progress, output=output)
            return _done(done.summary(), f"{done.path}{'  (already there)' if done.skipped else ''}")
        path = output or default
        archiving.export(model_dir, checked.model, fetched, version, progress, format_, path)
    return _done({"path": str(path), "format": format_, "version": version}, str(path))


def _staged(model_dir: Path, last: str, *, dry: list[str] | None, as_json: bool) -> Any:
    """Run check, fetch, archive and then `last` under the directory's lock; returns the runner and what `last` gave."""
    from torchrelay.relay import Relay  # noqa: PLC0415 -- as in check

    _begin(as_json)
    runner = Relay(model_dir, report.progress())
    checked = runner.check()
    if dry is not None:
        return _planned(last, dry)
    with Workspace(model_dir).lock():
        archived = runner.archive(checked, runner.fetch(checked))
        built = runner.build(checked, archived)
        return runner.verify(checked) if last == "verify" else built


@app.command()
def build(model_dir: ModelDir = DEFAULT_DIR, as_json: AsJson = False, dry_run: DryRun = False) -> None:
    """Compose the image: runtime, dependencies, weights and handler as separate layers."""
    steps = ["compose runtime, dependencies, weights and handler layers into .torchrelay/image.json"] if dry_run else None
    done = _staged(model_dir, "build", dry=steps, as_json=as_json)
    if done is not None:
        _done(done.summary(), f"{done.image.digest}{'  (already built)' if done.skipped else ''}")


@app.command()
def verify(model_dir: ModelDir = DEFAULT_DIR, as_json: AsJson = False, dry_run: DryRun = False) -> None:
    """Start the image without a network and hold every sample against its answer; writes verdict.json."""
    from torchrelay.verify import summary  # noqa: PLC0415 -- as in check

    steps = ["start the image with no network and a read-only root, and replay every sample"] if dry_run else None
    done = _staged(model_dir, "verify", dry=steps, as_json=as_json)
    if done is not None:
        _done(summary(done), f"{done.model} {done.version}: {done.result}, {len(done.samples)} samples")


@app.command()
def push(
    repository: Annotated[str, _option("repository", "host/repository[:tag]; one that ends in / gets the model's name.")],
    model_dir: ModelDir = DEFAULT_DIR,
    as_json: AsJson = False,
    dry_run: DryRun = False,
    create_repository: CreateRepository = False,
) -> None:
    """Push exactly the verified image, and only the blobs that the registry lacks."""
    from torchrelay.model import load_model  # noqa: PLC0415 -- as in check
    from torchrelay.push import push as run_push  # noqa: PLC0415

    _begin(as_json)
    destination = _destination(repository, load_model(model_dir).name)
    if dry_run:
        return _planned("push", [f"push the verified image to {destination}"])
    with Workspace(model_dir).lock():
        done = run_push(model_dir, destination, report.progress(), create=create_repository)
    return _done(done.summary(), f"{done.reference}  {done.bytes} bytes sent")


def _destination(repository: str, name: str) -> str:
    return repository + name if repository.endswith("/") else repository


@app.command()
def deploy(model_dir: ModelDir = DEFAULT_DIR, target: Target = None, as_json: AsJson = False, dry_run: DryRun = False) -> None:
    """Put the proved image into service on a target; a version that fails its samples never answers a user."""
    from torchrelay.relay import deploy_only  # noqa: PLC0415 -- as in check

    _begin(as_json)
    if dry_run:
        from torchrelay.relay import deploy_plan  # noqa: PLC0415

        return _planned("deploy", deploy_plan(model_dir, target))
    with Workspace(model_dir).lock():
        done = deploy_only(model_dir, report.progress(), target=target)
    return _done(done, f"{done['endpoint']['url']}")


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
    """Run every stage in order: check, fetch, archive, build, verify, push, deploy; what is done already is skipped."""
    from torchrelay.model import load_model  # noqa: PLC0415 -- as in check
    from torchrelay.relay import deploy_plan  # noqa: PLC0415
    from torchrelay.relay import relay as run_relay  # noqa: PLC0415

    _begin(as_json)
    name = load_model(model_dir).name
    destination = _destination(repository, name) if repository else None
    if dry_run:
        steps = ["check", "fetch", "archive", "build", "verify"]
        return _planned(
            "relay", [*steps, *([f"push to {destination}"] if destination else []), *deploy_plan(model_dir, target)]
        )
    with Workspace(model_dir).lock():
        done = run_relay(
            model_dir,
            report.progress(),
            target=target,
            repository=destination,
            create_repository=create_repository,
            update_lock=update_lock,
        )
    return _done(done, f"{done['endpoint']['url']}")


def _fail(error: TorchrelayError) -> int:
    if _State.json:
        told: dict[str, Any] = {"kind": error.kind, "message": error.message, "fix": error.fix, "exit_code": error.exit_code}
        if isinstance(error, ModelInvalid):
            told["problems"] = [vars(problem) for problem in error.problems]
        sys.stdout.write(json.dumps({"error": told}) + "\n")
    sys.stderr.write(f"torchrelay: {error}\n")
    return error.exit_code


def _translated(error: OSError) -> TorchrelayError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull(f"no room left on the disk ({error.filename or cache_dir()})", "free some space and run it again")
    where = f"{error.filename}: " if error.filename else ""
    return SystemRefused(f"{where}{error.strerror or error}", "check that the file is there and this user may use it")


def _on_term(_signal: int, _frame: FrameType | None) -> NoReturn:
    """End as Ctrl-C does: with every container removed and every file whole."""
    raise KeyboardInterrupt


def run(arguments: list[str], application: Callable[..., Any] = app) -> int:
    """Run one command and return its exit code."""
    _State.json = False
    logging.raiseExceptions = False
    try:
        result = application(arguments, standalone_mode=False)
    except click.exceptions.Exit as error:
        return error.exit_code
    except (click.exceptions.Abort, KeyboardInterrupt):
        return _fail(Interrupted("interrupted", "run it again: what is complete is kept, nothing is half-done"))
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except TorchrelayError as error:
        return _fail(error)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        return _fail(_translated(error))
    return result if isinstance(result, int) else 0


def main() -> NoReturn:
    """Entry point of the `torchrelay` command."""
    signal.signal(signal.SIGTERM, _on_term)
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
