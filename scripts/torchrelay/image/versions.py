"""Versions: model archives of other versions of the model, which the same server answers at /predictions/<name>/<version>.

Any `.mar` will do, of `torchrelay archive` or of torch-model-archiver. They run with this version's packages and server settings.
"""

import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torchrelay.core import paths
from torchrelay.core.digests import sha256_of
from torchrelay.core.errors import ArchiveInvalid, ModelInvalid, Problem
from torchrelay.core.progress import Progress
from torchrelay.core.text import shown
from torchrelay.core.workspace import Workspace
from torchrelay.image import mar
from torchrelay.model.fields import VERSION
from torchrelay.model.files import UnusableFile, regular
from torchrelay.model.model import FILE, Model
from torchrelay.oci.blobs import Slice
from torchrelay.oci.layers import Layer, LayerFile, tar_layer

MANIFEST = "MAR-INF/MANIFEST.json"
MANIFEST_LIMIT = 1 << 20  # bytes; real ones have a few hundred


@dataclass(frozen=True)
class Further:
    """One other version: what its archive calls it, and the archive."""

    version: str
    path: Path

    @property
    def sha256(self) -> str:
        """Digest of the archive (hex)."""
        return sha256_of(self.path)


def look(model_dir: Path, model: Model) -> tuple[list[Further], list[tuple[int | None, str, str]]]:
    """Return the other versions that can be read, and what is wrong: index in `versions` (None: the default), message, mend."""
    every: list[Further] = []
    found: list[tuple[int | None, str, str]] = []
    names: dict[str, str] = {model.version: FILE} if model.version else {}
    for index, name in enumerate(model.versions):
        try:
            one = _read(model_dir, model, name)
        except ArchiveInvalid as error:
            found.append((index, error.message, error.fix))
            continue
        if one.version in names:
            same = f"{shown(name)} is version {one.version}, and so is {shown(names[one.version])}"
            found.append((index, same, "keep one of them"))
        names.setdefault(one.version, name)
        every.append(one)
    default = model.default_version
    if default and default not in names and not found:
        fix = f"write one of {', '.join(sorted(names))}" if names else "declare `version:`, or list its archive in `versions`"
        found.append((None, f"there is no version {shown(default)} here", fix))
    return every, found


def further(model_dir: Path, model: Model, own: str) -> list[Further]:
    """Return the other versions of a model whose own version is `own`.

    Raises ModelInvalid when one cannot be read, or when two are the same.
    """
    every, wrong = look(model_dir, model)
    if own in [one.version for one in every]:
        wrong.append((None, f"{own} is this version, and an archive's too", "declare another `version:`, or remove the archive"))
    if wrong:
        raise ModelInvalid([Problem(FILE, None, "versions", message, fix) for _, message, fix in wrong])
    return every


def serving(model: Model, folders: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Return serving.json's part: each version's folder of its unpacked archive, and which is the default."""
    if not folders:
        return {}
    listed = [{"version": version, "model_dir": folder} for version, folder in folders]
    return {"versions": listed, "default": model.default_version or ""}


def layer(model_dir: Path, one: Further, progress: Progress) -> Layer:
    """Make an image layer of a version's files; they are unpacked below `.torchrelay`, where the layer's bytes stay.

    Raises ArchiveInvalid, DiskFull.
    """
    workspace = Workspace(model_dir)
    workspace.ensure()
    folder = workspace.root / "versions" / one.sha256[:16]
    done = folder.with_suffix(".done")
    if not done.exists():
        mar.unpack(one.path, folder)
        done.touch()
    files, inside = [], paths.image_version_dir(one.version).lstrip("/")
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        status = path.stat()
        content = Slice(path.resolve(), 0, status.st_size, status.st_mtime_ns)
        files.append(LayerFile(f"{inside}/{path.relative_to(folder).as_posix()}", content, status.st_size))
    with progress.task(f"layer of version {one.version}", sum(file.size for file in files)) as task:
        return tar_layer(files, f"torchrelay version {one.version}", task)


def _read(model_dir: Path, model: Model, name: str) -> Further:
    """Return what an archive says of itself. Raises ArchiveInvalid."""
    try:
        path = regular(model_dir, name)
    except UnusableFile as error:
        raise ArchiveInvalid(f"{shown(name)} {error}", "write the path of a .mar in the model directory") from error
    try:
        with zipfile.ZipFile(path) as archive:
            mar.checked(path, archive.infolist())
            with archive.open(MANIFEST) as file:
                described = json.loads(file.read(MANIFEST_LIMIT))["model"]
            called, version = str(described["modelName"]), str(described.get("modelVersion") or "1.0")
    except ArchiveInvalid:
        raise
    except (zipfile.BadZipFile, NotImplementedError, EOFError, OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise ArchiveInvalid(f"{shown(name)} is no model archive", "write the path of a .mar") from error
    if called != model.name:
        raise ArchiveInvalid(
            f"{shown(name)} is of the model {shown(called)}, this one is {model.name}", "archive it under this name"
        )
    if not VERSION.fullmatch(version):
        raise ArchiveInvalid(f"{shown(name)} is version {shown(version)}, which no address can hold", "archive it again")
    return Further(version, path)
