"""`torchrelay archive`."""

from pathlib import Path
from typing import Annotated

import typer

from torchrelay.cli.console import DEFAULT_DIR, AllowOutside, AsJson, DryRun, ModelDir, begin, done, option, planned
from torchrelay.core import progress
from torchrelay.core.workspace import Workspace
from torchrelay.model.version import resolved_version
from torchrelay.stages import archive
from torchrelay.stages.relay import Relay


def run(
    model_dir: ModelDir = DEFAULT_DIR,
    allow_outside: AllowOutside = False,
    as_json: AsJson = False,
    dry_run: DryRun = False,
    output: Annotated[Path | None, option("output", "File (or folder, for no-archive) to write. Default: in .torchrelay/.")] = None,
    format_: Annotated[str, option("format", "mar, tgz or no-archive.")] = "mar",
) -> None:
    """Write the model archive (.mar).

    Stock TorchServe loads it; the same inputs give the same bytes.
    """
    begin(as_json=as_json, allow_outside=allow_outside)
    if format_ not in archive.SUFFIX:
        raise typer.BadParameter(f"{format_!r} is not one of {', '.join(archive.SUFFIX)}", param_hint="--format")
    relay = Relay(model_dir, progress.progress(), dry=dry_run)
    checked = relay.check()
    version = resolved_version(checked.model, model_dir)
    path = output or Workspace(model_dir).root / f"{checked.model.name}{archive.SUFFIX[format_]}"
    if dry_run:
        return planned("archive", [f"write {path} of version {version}"])
    with Workspace(model_dir).lock():
        fetched = relay.fetch(checked.model)
        if format_ == "mar":
            archived = relay.archive(checked, fetched, output)
            return done(archived.summary(), f"{archived.path}{'  (already there)' if archived.skipped else ''}")
        archive.export(model_dir, checked.model, fetched, version, relay.progress, format_, path)
    return done({"path": str(path), "format": format_, "version": version}, str(path))
