"""The stages as verbs, in the order in which relay runs them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from torchrelay.cli.console import DEFAULT_DIR, AsJson, DryRun, ModelDir, Target, app, begin, done, option, planned
from torchrelay.cli.console import Bundle as BundleFolder
from torchrelay.core import progress
from torchrelay.core.log import log
from torchrelay.core.paths import weights_cache
from torchrelay.core.workspace import Workspace

if TYPE_CHECKING:
    from torchrelay.stages.bundle import Bundle

Repository = Annotated[
    str | None, option("repository", "host/repository[:tag] to push to; one that ends in / gets the model's name.")
]
CreateRepository = Annotated[
    bool, option("create-repository", "Create the ECR repository, with immutable tags and scan on push, when it is missing.")
]
ExpectDigest = Annotated[str | None, option("expect-digest", "Digest that the bundle must have: sha256:..., as bundle told it.")]
ExpectModel = Annotated[str | None, option("expect-model", "Name of the model that the bundle must be of.")]
VerifyKey = Annotated[
    str | None,
    option("verify-key", "Public key, PEM or @file: deploy only what it signed to have passed."),
]
UpdateLock = Annotated[bool, option("update-lock", "Accept weights that differ from weights.lock, and lock these.")]


@app.command()
def check(model_dir: ModelDir = DEFAULT_DIR, as_json: AsJson = False, dry_run: DryRun = False) -> None:
    """Find every mistake, with file and line.

    Reads model.yaml, its samples and every file they name; runs no code of the model.
    """
    from torchrelay.stages import journal  # noqa: PLC0415 -- each verb imports only what it needs: --help stays fast
    from torchrelay.stages.check import check as run_check  # noqa: PLC0415

    begin(as_json=as_json)
    if dry_run:
        return planned("check", [f"read {model_dir / 'model.yaml'} and every file it names"])
    Workspace(model_dir).own()
    found, _ = journal.timed(Workspace(model_dir), "check", lambda: run_check(model_dir), lambda made: {"said": made.model.name})
    for warning in found.warnings:
        log.warning("%s", warning)
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
    from torchrelay.model.server_config import load_model  # noqa: PLC0415
    from torchrelay.stages import fetch as fetching  # noqa: PLC0415 -- as in check
    from torchrelay.stages.relay import Relay  # noqa: PLC0415

    begin(as_json=as_json)
    model = load_model(model_dir)
    if dry_run:
        return planned("fetch", [fetching.planned(model_dir, model, cache=weights_cache())])
    with Workspace(model_dir).lock():
        got = Relay(model_dir, progress.progress(), update_lock).fetch(model)
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
    from torchrelay.stages import archive as archiving  # noqa: PLC0415 -- as in check
    from torchrelay.stages.check import resolved_version  # noqa: PLC0415
    from torchrelay.stages.relay import Relay  # noqa: PLC0415

    begin(as_json=as_json)
    if format_ not in archiving.SUFFIX:
        raise typer.BadParameter(f"{format_!r} is none of {', '.join(archiving.SUFFIX)}", param_hint="--format")
    runner = Relay(model_dir, progress.progress(), dry=dry_run)
    checked = runner.check()
    version = resolved_version(checked.model, model_dir)
    default = Workspace(model_dir).root / f"{checked.model.name}{archiving.SUFFIX[format_]}"
    if dry_run:
        return planned("archive", [f"write {output or default} of version {version}"])
    with Workspace(model_dir).lock():
        fetched = runner.fetch(checked.model)
        if format_ == "mar":
            made = runner.archive(checked, fetched, output)
            return done(made.summary(), f"{made.path}{'  (already there)' if made.skipped else ''}")
        path = output or default
        archiving.export(model_dir, checked.model, fetched, version, runner.progress, format_, path)
    return done({"path": str(path), "format": format_, "version": version}, str(path))


def _staged(model_dir: Path, last: str, *, dry: list[str] | None, as_json: bool) -> Any:
    """Run check, fetch, archive and then `last` under the directory's lock; returns the runner and what `last` gave."""
    from torchrelay.stages.relay import Relay  # noqa: PLC0415 -- as in check

    begin(as_json=as_json)
    runner = Relay(model_dir, progress.progress(), dry=dry is not None)
    checked = runner.check()
    if dry is not None:
        return planned(last, dry)
    with Workspace(model_dir).lock():
        archived = runner.archive(checked, runner.fetch(checked.model))
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
    from torchrelay.stages.verify import summary  # noqa: PLC0415 -- as in check

    steps = ["start the image with no network and a read-only root, and replay every sample"] if dry_run else None
    verdict = _staged(model_dir, "verify", dry=steps, as_json=as_json)
    if verdict is not None:
        done(summary(verdict), f"{verdict.model} {verdict.version}: {verdict.result}, {len(verdict.samples)} samples")


@app.command()
def push(
    repository: Annotated[str, option("repository", "host/repository[:tag]; one that ends in / gets the model's name.")],
    model_dir: ModelDir = DEFAULT_DIR,
    bundle: BundleFolder = None,
    expect_digest: ExpectDigest = None,
    expect_model: ExpectModel = None,
    as_json: AsJson = False,
    dry_run: DryRun = False,
    create_repository: CreateRepository = False,
) -> None:
    """Push exactly the verified image.

    Only the blobs that the registry lacks travel.
    """
    from torchrelay.model.server_config import load_model  # noqa: PLC0415 -- as in check
    from torchrelay.stages.relay import push_only  # noqa: PLC0415

    begin(as_json=as_json)
    read = _read(bundle, expect_digest, expect_model)
    destination = _destination(repository, (read.model if read else load_model(model_dir)).name)
    if dry_run:
        return planned("push", [f"push the verified image to {destination}"])
    folder = bundle or model_dir
    with Workspace(folder).lock():
        if read is not None:
            Workspace(folder).clear()  # it came from the job that ran the model's code: only what is done from here on counts
        pushed = push_only(folder, destination, progress.progress(), create=create_repository, bundle=read)
    return done(pushed.summary(), f"{pushed.reference}  {pushed.bytes} bytes sent")


def _destination(repository: str, name: str) -> str:
    return repository + name if repository.endswith("/") else repository


def _read(bundle: Path | None, expect_digest: str | None, expect_model: str | None) -> "Bundle | None":
    """Return the bundle to work on, None for a model directory."""
    if bundle is None:
        if expect_digest:
            raise typer.BadParameter("is the digest of a bundle: name it with --bundle", param_hint="--expect-digest")
        if expect_model:
            raise typer.BadParameter("is the model of a bundle: name it with --bundle", param_hint="--expect-model")
        return None
    from torchrelay.stages import bundle as bundles  # noqa: PLC0415 -- as in check

    return bundles.expect(bundles.read(bundle, expect_digest), expect_model)


@app.command()
def deploy(
    model_dir: ModelDir = DEFAULT_DIR,
    target: Target = None,
    bundle: BundleFolder = None,
    expect_digest: ExpectDigest = None,
    expect_model: ExpectModel = None,
    verify_key: VerifyKey = None,
    as_json: AsJson = False,
    dry_run: DryRun = False,
) -> None:
    """Put the proved image into service.

    A version that fails its samples never answers a user.
    """
    from torchrelay.model.server_config import load_model  # noqa: PLC0415 -- as in check
    from torchrelay.stages.relay import deploy_bundle, deploy_only, deploy_plan  # noqa: PLC0415

    begin(as_json=as_json)
    read = _read(bundle, expect_digest, expect_model)
    steps = deploy_plan(read.model if read else load_model(model_dir), target, bundled=read is not None)
    if dry_run:
        return planned("deploy", steps)
    with Workspace(bundle or model_dir).lock():
        if read is not None:
            result = deploy_bundle(read, progress.progress(), target=target, verify_key=verify_key)
        else:
            result = deploy_only(model_dir, progress.progress(), target=target, verify_key=verify_key)
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
    from torchrelay.model.server_config import load_model  # noqa: PLC0415 -- as in check
    from torchrelay.stages.relay import relay as run_relay  # noqa: PLC0415
    from torchrelay.stages.relay import relay_plan  # noqa: PLC0415

    begin(as_json=as_json)
    model = load_model(model_dir)
    destination = _destination(repository, model.name) if repository else None
    steps = relay_plan(model, target, destination)
    if dry_run:
        return planned("relay", steps)
    with Workspace(model_dir).lock():
        result = run_relay(
            model_dir,
            progress.progress(),
            target=target,
            repository=destination,
            create_repository=create_repository,
            update_lock=update_lock,
        )
    return done(result, result["endpoint"]["url"])
