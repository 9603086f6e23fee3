"""What an image's layers hold: package records and the model's files; a layer is read once and remembered by its diff id."""

import hashlib
import json
import re
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import IO, Any, Self

from torchrelay.attestation import packages
from torchrelay.attestation.packages import Package
from torchrelay.core import paths
from torchrelay.core.errors import BundleInvalid
from torchrelay.core.files import CHUNK, ChunkReader, read_json, write_json
from torchrelay.core.progress import Progress, Task
from torchrelay.oci.image import Image
from torchrelay.oci.layers import TAR, Layer

FORMAT = 2  # to be raised with any change to what is read of a layer
RECORD_LIMIT = 32 << 20
MODELS = tuple(f"{paths.IMAGE_HOME}/{folder}/".lstrip("/") for folder in ("models", "versions"))
SERVING = paths.IMAGE_SERVING.lstrip("/")
JAVA = f"{paths.IMAGE_HOME}/jre/release".lstrip("/")
DPKG = "var/lib/dpkg/status"
OS = ("usr/lib/os-release", "etc/os-release")
# What an interpreter can import by name; a package's own vendored copies lie deeper, and Debian's are in its own records.
PYTHON = re.compile(r"(?!usr/lib/python3/).*(?:site|dist)-packages/[^/]+\.dist-info/METADATA")
COPYRIGHT = re.compile(r"usr/share/doc/([^/]+)/copyright")
WHITEOUT, OPAQUE = ".wh.", ".wh..wh..opq"


@dataclass(frozen=True)
class ModelFile:
    """A file of the model: its sha256 in hex, and its size in bytes."""

    sha256: str
    size: int


@dataclass
class Contents:
    """What was found, by path in the image without the leading slash."""

    debian: list[Package] = field(default_factory=list)
    python: dict[str, Package] = field(default_factory=dict)
    licences: dict[str, tuple[str, ...]] = field(default_factory=dict)
    files: dict[str, ModelFile] = field(default_factory=dict)
    documents: dict[str, dict[str, Any]] = field(default_factory=dict)
    removed: list[str] = field(default_factory=list)
    """Paths of lower layers that this one takes away; one that ends in / is a folder that it begins anew."""

    def to_json(self) -> dict[str, Any]:
        """Return the form that the cache keeps."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """Read what to_json wrote. Raises TypeError or KeyError when it is something else."""
        return cls(
            [_package(one) for one in value["debian"]],
            {path: _package(one) for path, one in value["python"].items()},
            {name: tuple(one) for name, one in value["licences"].items()},
            {path: ModelFile(**one) for path, one in value["files"].items()},
            value["documents"],
            value["removed"],
        )

    def over(self, lower: "Contents") -> "Contents":
        """Return both, this layer on top of the other."""
        gone = self.removed

        def left(path: str) -> bool:
            return not any(path.startswith(one) if one.endswith("/") else path == one or path.startswith(f"{one}/") for one in gone)

        return Contents(
            self.debian or (lower.debian if left(DPKG) else []),
            {path: one for path, one in lower.python.items() if left(path)} | self.python,
            {name: one for name, one in lower.licences.items() if left(f"usr/share/doc/{name}/copyright")} | self.licences,
            {path: one for path, one in lower.files.items() if left(path)} | self.files,
            {path: one for path, one in lower.documents.items() if left(path)} | self.documents,
        )

    @property
    def serving(self) -> dict[str, Any]:
        """What the entrypoint reads: the model's name, version and folder."""
        return self.documents.get(SERVING, {})

    def model_file(self, name: str) -> ModelFile | None:
        """Return a file of the model's folder."""
        return self.files.get(f"{str(self.serving.get('model_dir', '')).strip('/')}/{name}")

    @property
    def weights_name(self) -> str:
        """Name of the weights in the model's folder; empty when the image says none."""
        folder = str(self.serving.get("model_dir", "")).strip("/")
        return str(self.documents.get(f"{folder}/torchrelay.json", {}).get("weights", ""))

    @property
    def weights(self) -> ModelFile | None:
        """The weights."""
        return self.model_file(self.weights_name)


def _package(value: dict[str, Any]) -> Package:
    return Package(**{**value, "licences": tuple(value["licences"])})


def contents(image: Image, progress: Progress) -> Contents:
    """Return what the image holds, read from its layers alone.

    Raises BundleInvalid when a layer is not the one that the image's config names.
    """
    found = Contents()
    for layer, expected in zip(image.layers, image.config["rootfs"]["diff_ids"], strict=True):
        found = _scanned(layer, expected, progress).over(found)
    return found


def _scanned(layer: Layer, diff_id: str, progress: Progress) -> Contents:
    record = paths.cache_dir() / "scans" / f"{FORMAT}-{diff_id.removeprefix('sha256:')}.json"
    known = read_json(record)
    try:
        return Contents.from_json(known)
    except (TypeError, KeyError, AttributeError):
        pass  # not scanned yet, or cut short
    with progress.task(f"list layer {diff_id[7:19]}", layer.blob.size) as task:
        found = scan(layer, diff_id, task)
    write_json(record, found.to_json())
    return found


def scan(layer: Layer, diff_id: str, task: Task) -> Contents:
    """Read one layer from end to end. Raises BundleInvalid when it is damaged, or not of this diff id."""
    digest = hashlib.sha256()

    def plain() -> Iterator[bytes]:
        for chunk in _unpacked(layer, task):
            digest.update(chunk)
            yield chunk

    found = Contents()
    stream = ChunkReader(plain())
    try:
        with tarfile.open(fileobj=stream, mode="r|") as archive:
            for member in archive:
                _look(found, archive, member)
        while stream.read(CHUNK):
            pass  # what follows the end of the tar counts for the digest
    except (tarfile.TarError, zlib.error, EOFError, RecursionError) as error:
        raise BundleInvalid(f"layer {layer.blob.digest}: {error}", "build the image again") from error
    if f"sha256:{digest.hexdigest()}" != diff_id:
        raise BundleInvalid(f"layer {layer.blob.digest} is not {diff_id}, which the image's config names", "build the image again")
    return found


def _unpacked(layer: Layer, task: Task) -> Iterator[bytes]:
    squeeze = None if layer.media_type == TAR else zlib.decompressobj(wbits=31)
    for chunk in layer.blob.chunks():
        task.advance(len(chunk))
        if squeeze is None:
            yield chunk
            continue
        while chunk:
            yield squeeze.decompress(chunk, 4 * CHUNK)
            chunk = squeeze.unconsumed_tail  # noqa: PLW2901 -- what is left of the chunk
    if squeeze is not None:
        yield squeeze.flush()
        if not squeeze.eof:
            raise EOFError("the compressed layer ends early")


def _look(found: Contents, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
    """Take what counts of one entry of a layer."""
    path = member.name.removeprefix("./").strip("/")
    folder, _, name = path.rpartition("/")
    if name == OPAQUE:
        found.removed.append(f"{folder}/")
    elif name.startswith(WHITEOUT):
        found.removed.append(f"{folder}/{name.removeprefix(WHITEOUT)}".lstrip("/"))
    elif not member.isreg() or (source := archive.extractfile(member)) is None:
        return
    elif path.startswith(MODELS) or path == SERVING:
        found.files[path] = _hashed(source, found.documents, path)
    elif path == DPKG:
        found.debian = packages.dpkg_status(_text(source, path))
    elif PYTHON.fullmatch(path):
        if (package := packages.python_metadata(_text(source, path))) is not None:
            found.python[path.rpartition("/")[0]] = package
    elif path == JAVA or path in OS:
        found.documents[path] = packages.assignments(_text(source, path))
    elif (match := COPYRIGHT.fullmatch(path)) and (licences := packages.debian_licences(_text(source, path))):
        found.licences[match[1]] = licences


def _text(source: IO[bytes], path: str) -> str:
    return _bytes(source, path).decode(errors="replace")


def _bytes(source: IO[bytes], path: str) -> bytes:
    data = source.read(RECORD_LIMIT + 1)
    if len(data) > RECORD_LIMIT:
        raise BundleInvalid(f"{path} is larger than {RECORD_LIMIT >> 20} MiB", "build the image again")
    return data


def _version(value: Any) -> dict[str, str]:
    """Return version and folder of another version; empty when it says no such thing."""
    told = value if isinstance(value, dict) else {}
    kept = {key: told[key] for key in ("version", "model_dir") if isinstance(told.get(key), str)}
    return kept if len(kept) == 2 else {}


def _hashed(source: IO[bytes], documents: dict[str, dict[str, Any]], path: str) -> ModelFile:
    """Hash a file of the model; its two small documents are kept."""
    if path != SERVING and not path.endswith("/torchrelay.json"):
        digest, size = hashlib.sha256(), 0
        while chunk := source.read(CHUNK):
            digest.update(chunk)
            size += len(chunk)
        return ModelFile(digest.hexdigest(), size)
    data = _bytes(source, path)
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        document = None
    if isinstance(document, dict):
        kept = ("name", "version", "model_dir", "weights")
        documents[path] = {key: document[key] for key in kept if isinstance(document.get(key), str)}
        if isinstance(listed := document.get("versions"), list):
            documents[path]["versions"] = [found for one in listed if (found := _version(one))]
    return ModelFile(hashlib.sha256(data).hexdigest(), len(data))
