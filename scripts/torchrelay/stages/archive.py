"""Archive: turns a model directory and its fetched weights into a `.mar` that stock TorchServe loads."""

import hashlib
import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import yaml

from torchrelay.core import paths
from torchrelay.core.digests import sha256_of
from torchrelay.core.errors import ArchiveInvalid, ModelInvalid, WeightsChanged
from torchrelay.core.files import read_json, write_json
from torchrelay.core.progress import Progress
from torchrelay.core.workspace import Workspace
from torchrelay.image.mar import Archived, Entry, Stored, write_folder, write_mar, write_tgz
from torchrelay.model import server_config
from torchrelay.model.handlers import file_options
from torchrelay.model.model import Model
from torchrelay.stages.fetch import Fetched
from torchrelay.weights import formats

ARCHIVER_VERSION = "0.12.0"  # the torch-model-archiver version whose manifest format this is
CREATED_ON = "01/01/1980 00:00:00"
SERVICE = "torchrelay_service.py"
RECORD_FORMAT = 1

Format = Literal["mar", "tgz", "no-archive"]
SUFFIX: dict[Format, str] = {"mar": ".mar", "tgz": ".tar.gz", "no-archive": ""}


def manifest(model: Model, version: str, weights: str) -> dict[str, Any]:
    """Return MAR-INF/MANIFEST.json: torch-model-archiver's keys, with a fixed time."""
    fields: dict[str, Any] = {
        "modelName": model.name,
        "modelVersion": version,
        "handler": SERVICE,
        "serializedFile": weights,
        "configFile": server_config.FILE,
    }
    if model.model_file:
        fields["modelFile"] = Path(model.model_file).name
    if model.requirements:
        fields["requirementsFile"] = Path(model.requirements).name
    return {"createdOn": CREATED_ON, "runtime": "python", "model": fields, "archiverVersion": ARCHIVER_VERSION}


def handler_config(model: Model, weights: str, *, setup_at_start: bool = False) -> dict[str, Any]:
    """Return torchrelay.json, which the handler library reads from the archive."""
    file = model.handler_file
    handler = model.handler if file is None else Path(file).name + model.handler[len(file) :]
    files = file_options(model.handler, model.handler_args)
    arguments = {key: Path(value).name if key in files else value for key, value in model.handler_args.items()}
    return {
        "name": model.name,
        "handler": handler,
        "handler_args": arguments,
        "model_file": Path(model.model_file).name if model.model_file else None,
        "init_args": model.init_args,
        "weights": weights,
        "device": model.device,
        "workers": model.workers,
        "batch_size": model.batch.size,
        **({"setup_at_start": True} if setup_at_start else {}),
        **({"weights_format": model.weights.format} if model.weights.format else {}),
    }


def torchserve_config(model: Model) -> dict[str, Any]:
    """Return model-config.yaml in TorchServe's own keys; times in seconds, except maxBatchDelay (ms)."""
    return {
        "minWorkers": model.workers,
        "maxWorkers": model.workers,
        "batchSize": model.batch.size,
        "maxBatchDelay": model.batch.delay_ms,
        "responseTimeout": model.timeouts.response_s,
        "startupTimeout": model.timeouts.startup_s,
        "maxRetryTimeoutInSec": 60,
    } | ({"deviceType": model.device} if str(model.device) != "auto" else {})  # build.sh: the server assigns one


def _declared_files(model: Model) -> dict[str, str]:
    """Map names in the archive to paths in the model directory; code is at the top, as the archiver places it."""
    files = {name: name for name in model.extra_files}
    top = [model.model_file, model.requirements, model.handler_file]
    top += file_options(model.handler, model.handler_args).values()
    files.update({Path(path).name: path for path in top if path})
    return files


def _expand(model_dir: Path, files: dict[str, str]) -> dict[str, Entry]:
    entries: dict[str, Entry] = {}
    for name, path in files.items():
        source = model_dir / path
        sources = [source] if source.is_file() else sorted(child for child in source.rglob("*") if child.is_file())
        if not sources:
            raise ArchiveInvalid(
                f"{path}: there is no such file in {model_dir}", "run `torchrelay check` to list everything missing"
            )
        for file in sources:
            if "__pycache__" not in file.parts:
                inside = name if file == source else f"{name.rstrip('/')}/{file.relative_to(source).as_posix()}"
                entries[inside] = Entry(inside, file)
    return entries


def library_entries() -> list[Entry]:
    """Return the handler library's files, as they go into every archive."""
    files = sorted(file for file in paths.HANDLERS.rglob("*.py"))
    top = paths.HANDLERS.parent
    return [Entry(file.relative_to(top).as_posix(), file) for file in files]


def plan_entries(
    model_dir: Path, model: Model, weights: Path, weights_name: str, version: str, *, setup_at_start: bool = False
) -> list[Entry]:
    """Return every file of the archive, sorted by name.

    Raises ArchiveInvalid when a declared file is missing, ModelInvalid when model-config.yaml is wrong or contradicts the model.
    """
    author_config = server_config.read(model_dir)
    model, problems = server_config.applied(model, author_config)
    if problems:
        raise ModelInvalid(problems)
    entries = {entry.name: entry for entry in library_entries()}
    entries.update({name: Entry(name, content) for name, content in author_config.files.items()})
    entries.update(_expand(model_dir, _declared_files(model)))
    config = torchserve_config(model) | author_config.rest
    generated: dict[str, bytes] = {
        "MAR-INF/MANIFEST.json": _json(manifest(model, version, weights_name)),
        "torchrelay.json": _json(handler_config(model, weights_name, setup_at_start=setup_at_start)),
        server_config.FILE: yaml.safe_dump(config, sort_keys=True).encode(),
        SERVICE: (paths.HANDLERS / "service_entry.py").read_bytes(),
    }
    entries.update({name: Entry(name, content) for name, content in generated.items()})
    entries[weights_name] = Entry(weights_name, weights)
    return [entries[name] for name in sorted(entries)]


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=2, sort_keys=True).encode() + b"\n"


def inputs_digest(entries: list[Entry], weights_name: str, weights_sha256: str) -> str:
    """Return one sha256 over names and contents; the weights count by the digest that fetch verified."""
    digest = hashlib.sha256(f"{RECORD_FORMAT}\n".encode())
    for entry in entries:
        if entry.name == weights_name:
            content = weights_sha256
        elif isinstance(entry.source, bytes):
            content = hashlib.sha256(entry.source).hexdigest()
        else:
            content = sha256_of(entry.source)
        digest.update(f"{content}  {entry.name}\n".encode())
    return digest.hexdigest()


def run(
    model_dir: Path,
    model: Model,
    fetched: Fetched,
    version: str,
    progress: Progress,
    *,
    output: Path | None = None,
    setup_at_start: bool = False,
) -> Archived:
    """Write the `.mar` unless the one there was made from the same inputs.

    `setup_at_start` lets whoever serves it run install_packages and unpack_dependencies, which an image's build runs otherwise.

    Raises ArchiveInvalid for a missing file or damaged weights, ModelInvalid when their format is not the declared one,
    WeightsChanged when they are no longer what fetch verified, DiskFull.
    """
    workspace = Workspace(model_dir)
    weights = model.weights.filename
    entries = plan_entries(model_dir, model, fetched.path, weights, version, setup_at_start=setup_at_start)
    inputs = inputs_digest(entries, weights, fetched.sha256)
    path = output or workspace.root / f"{model.name}.mar"
    if (stored_before := _recorded(workspace, path, inputs)) is not None:
        return Archived(path, model.name, version, weights, inputs, stored_before, skipped=True)
    formats.require_sound(fetched.path, model.weights)
    with progress.task(f"archive {path.name}", sum(entry.size for entry in entries)) as task:
        stored = write_mar(path, entries, task)
    if stored[weights].sha256 != fetched.sha256:
        path.unlink()
        raise WeightsChanged(
            f"{fetched.path}: changed while it was archived", "wait until nothing is writing to it, then run again"
        )
    status = path.stat()
    record = {
        "inputs": inputs,
        "path": str(path.resolve()),
        "size": status.st_size,
        "mtime_ns": status.st_mtime_ns,
        "entries": {name: asdict(place) for name, place in stored.items()},
    }
    workspace.ensure()
    write_json(workspace.archive_record, record)
    return Archived(path, model.name, version, weights, inputs, stored, skipped=False)


def _recorded(workspace: Workspace, path: Path, inputs: str) -> dict[str, Stored] | None:
    record = read_json(workspace.archive_record)
    try:
        status = path.stat()
        same = (record["inputs"], record["path"], record["size"], record["mtime_ns"]) == (
            inputs,
            str(path.resolve()),
            status.st_size,
            status.st_mtime_ns,
        )
        return {name: Stored(**place) for name, place in record["entries"].items()} if same else None
    except (OSError, KeyError, TypeError):
        return None


def export(model_dir: Path, model: Model, fetched: Fetched, version: str, progress: Progress, kind: Format, output: Path) -> None:
    """Write the archive in one of torch-model-archiver's other formats: `tgz`, or a folder for `no-archive`."""
    weights = model.weights.filename
    entries = plan_entries(model_dir, model, fetched.path, weights, version)
    if kind == "no-archive" and output.exists() and (not output.is_dir() or any(output.iterdir())):
        if output.resolve().parent != Workspace(model_dir).root.resolve():
            raise ArchiveInvalid(f"{output}: exists and is not an empty folder", "name a new folder with --output")
        shutil.rmtree(output)  # our own earlier export: remove all of it
    formats.require_sound(fetched.path, model.weights)
    with progress.task(f"archive {output.name}", sum(entry.size for entry in entries)) as task:
        if kind == "tgz":
            write_tgz(output, model.name, entries, task)
        else:
            write_folder(output, entries, task)
