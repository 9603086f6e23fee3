"""Other versions of the model: archives that the same server serves at /predictions/<name>/<version>.

Any `.mar` works, from `torchrelay archive` or torch-model-archiver. It runs with this version's packages and server settings.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torchrelay.core import paths
from torchrelay.core.digests import sha256_of
from torchrelay.core.errors import ArchiveInvalid, ModelInvalid, Problem
from torchrelay.core.json_text import parse_untrusted
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
class OtherVersion:
    """One other version: the version that its archive declares, and the archive."""

    version: str
    path: Path

    @property
    def sha256(self) -> str:
        """Digest of the archive (hex)."""
        return sha256_of(self.path)


def read_versions(model_dir: Path, model: Model) -> tuple[list[OtherVersion], list[tuple[int | None, str, str]]]:
    """Return the other versions that can be read, and the problems: index in `versions` (None: the default), message, fix."""
    others: list[OtherVersion] = []
    problems: list[tuple[int | None, str, str]] = []
    names: dict[str, str] = {model.version: FILE} if model.version else {}
    for index, name in enumerate(model.versions):
        try:
            other = _read(model_dir, model, name)
        except ArchiveInvalid as error:
            problems.append((index, error.message, error.fix))
            continue
        if other.version in names:
            same = f"{shown(name)} is version {other.version}, and so is {shown(names[other.version])}"
            problems.append((index, same, "keep one of them"))
        names.setdefault(other.version, name)
        others.append(other)
    default = model.default_version
    if default and default not in names and not problems:
        fix = f"write one of {', '.join(sorted(names))}" if names else "declare `version:`, or list its archive in `versions`"
        problems.append((None, f"there is no version {shown(default)} here", fix))
    return others, problems


def other_versions(model_dir: Path, model: Model, own: str) -> list[OtherVersion]:
    """Return the other versions of a model whose own version is `own`.

    Raises ModelInvalid when one cannot be read, or when two are the same.
    """
    others, problems = read_versions(model_dir, model)
    if own in [other.version for other in others]:
        message = f"{own} is the version of both the model and an archive"
        problems.append((None, message, "declare another `version:`, or remove the archive"))
    if problems:
        raise ModelInvalid([Problem(FILE, None, "versions", message, fix) for _, message, fix in problems])
    return others


def serving_versions(model: Model, folders: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Return the versions part of serving.json: the folder of each version's unpacked archive, and the default version."""
    if not folders:
        return {}
    rows = [{"version": version, "model_dir": folder} for version, folder in folders]
    return {"versions": rows, "default": model.default_version or ""}


def version_layer(model_dir: Path, other: OtherVersion, progress: Progress) -> Layer:
    """Make an image layer of a version's files, unpacked below `.torchrelay`: the layer refers to them there.

    Raises ArchiveInvalid, DiskFull.
    """
    workspace = Workspace(model_dir)
    workspace.ensure()
    folder = workspace.root / "versions" / other.sha256[:16]
    done = folder.with_suffix(".done")
    if not done.exists():
        mar.unpack(other.path, folder)
        done.touch()
    files, inside = [], paths.image_version_dir(other.version).lstrip("/")
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        status = path.stat()
        content = Slice(path.resolve(), 0, status.st_size, status.st_mtime_ns)
        files.append(LayerFile(f"{inside}/{path.relative_to(folder).as_posix()}", content, status.st_size))
    with progress.task(f"layer of version {other.version}", sum(file.size for file in files)) as task:
        return tar_layer(files, f"torchrelay version {other.version}", task)


def _read(model_dir: Path, model: Model, name: str) -> OtherVersion:
    """Read name and version from an archive's manifest. Raises ArchiveInvalid."""
    try:
        path = regular(model_dir, name)
    except UnusableFile as error:
        raise ArchiveInvalid(f"{shown(name)} {error}", "write the path of a .mar in the model directory") from error
    with mar.opened(path, f"{shown(name)} is not a model archive") as archive:
        names = {info.filename for info in mar.checked(path, archive)}
        try:
            with archive.open(MANIFEST) as file:
                manifest = parse_untrusted(file.read(MANIFEST_LIMIT))["model"]
            model_name, version = str(manifest["modelName"]), str(manifest.get("modelVersion") or "1.0")
            handler, weights = str(manifest.get("handler") or ""), str(manifest.get("serializedFile") or "")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ArchiveInvalid(f"{shown(name)} is not a model archive", "write the path of a .mar") from error
    code = handler.partition(":")[0]  # without .py it is one of TorchServe's own handlers
    missing = [one for one in (code if code.endswith(".py") else "", weights) if one and one not in names]
    if missing:
        raise ArchiveInvalid(f"{shown(name)} does not contain {shown(missing[0])}, which its manifest names", "archive it again")
    if model_name != model.name:
        message = f"{shown(name)} is an archive of model {shown(model_name)}, this model is {model.name}"
        raise ArchiveInvalid(message, f"archive it as {model.name}")
    if not VERSION.fullmatch(version):
        raise ArchiveInvalid(f"{shown(name)} is version {shown(version)}, which cannot be part of a URL", "archive another version")
    return OtherVersion(version, path)
