"""The contents of an image's layers: package records and the model's files. A layer is read once and cached by its diff id."""

import hashlib
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
from torchrelay.core.json_text import parse_untrusted
from torchrelay.core.progress import Progress, Task
from torchrelay.oci.image import Image
from torchrelay.oci.layers import TAR, Layer

FORMAT = 2  # raise it with any change to the data that is read from a layer
RECORD_LIMIT = 32 << 20  # bytes
MODELS = tuple(f"{paths.IMAGE_HOME}/{folder}/".lstrip("/") for folder in ("models", "versions"))
SERVING = paths.IMAGE_SERVING.lstrip("/")
JAVA = f"{paths.IMAGE_HOME}/jre/release".lstrip("/")
DPKG = "var/lib/dpkg/status"
OS = ("usr/lib/os-release", "etc/os-release")
# Packages that can be imported by name. Vendored copies are in deeper folders; Debian's Python packages are in dpkg's records.
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
    """Packages and files, by path in the image without the leading slash."""

    debian: list[Package] = field(default_factory=list)
    python: dict[str, Package] = field(default_factory=dict)
    licences: dict[str, tuple[str, ...]] = field(default_factory=dict)
    files: dict[str, ModelFile] = field(default_factory=dict)
    documents: dict[str, dict[str, Any]] = field(default_factory=dict)
    removed: list[str] = field(default_factory=list)
    """Whiteouts: paths deleted from lower layers; a trailing / marks an opaque directory."""

    def to_json(self) -> dict[str, Any]:
        """Return the form that the cache stores."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """Parse the form that to_json returns. Raises TypeError or KeyError for anything else."""
        return cls(
            [_package(row) for row in value["debian"]],
            {path: _package(row) for path, row in value["python"].items()},
            {name: tuple(names) for name, names in value["licences"].items()},
            {path: ModelFile(**row) for path, row in value["files"].items()},
            value["documents"],
            value["removed"],
        )

    def over(self, lower: "Contents") -> "Contents":
        """Return the contents of both, this layer on top of the lower ones."""

        def remains(path: str) -> bool:
            return not any(path == gone or path.startswith(f"{gone.rstrip('/')}/") for gone in self.removed)

        return Contents(
            self.debian or (lower.debian if remains(DPKG) else []),
            {path: package for path, package in lower.python.items() if remains(path)} | self.python,
            {name: names for name, names in lower.licences.items() if remains(f"usr/share/doc/{name}/copyright")} | self.licences,
            {path: file for path, file in lower.files.items() if remains(path)} | self.files,
            {path: document for path, document in lower.documents.items() if remains(path)} | self.documents,
        )

    @property
    def serving(self) -> dict[str, Any]:
        """The entrypoint's configuration: the model's name, version and folder."""
        return self.documents.get(SERVING, {})

    def model_file(self, name: str) -> ModelFile | None:
        """Return a file of the model's folder."""
        return self.files.get(f"{str(self.serving.get('model_dir', '')).strip('/')}/{name}")

    @property
    def weights_name(self) -> str:
        """Name of the weights in the model's folder; empty when the image does not name them."""
        folder = str(self.serving.get("model_dir", "")).strip("/")
        return str(self.documents.get(f"{folder}/torchrelay.json", {}).get("weights", ""))

    @property
    def weights(self) -> ModelFile | None:
        """The file of the weights."""
        return self.model_file(self.weights_name)


def _package(value: dict[str, Any]) -> Package:
    return Package(**{**value, "licences": tuple(value["licences"])})


def contents(image: Image, progress: Progress) -> Contents:
    """Return the contents of an image, read from its layers alone.

    Raises BundleInvalid when a layer does not have the diff id in the image's config.
    """
    merged = Contents()
    for layer, diff_id in zip(image.layers, image.config["rootfs"]["diff_ids"], strict=True):
        merged = _scanned(layer, diff_id, progress).over(merged)
    return merged


def _scanned(layer: Layer, diff_id: str, progress: Progress) -> Contents:
    record = paths.cache_dir() / "scans" / f"{FORMAT}-{diff_id.removeprefix('sha256:')}.json"
    try:
        return Contents.from_json(read_json(record))
    except (TypeError, KeyError, AttributeError):
        pass  # not scanned yet, or damaged
    with progress.task(f"list layer {diff_id[7:19]}", layer.blob.size) as task:
        scanned = scan(layer, diff_id, task)
    write_json(record, scanned.to_json())
    return scanned


def scan(layer: Layer, diff_id: str, task: Task) -> Contents:
    """Read one whole layer. Raises BundleInvalid when it is damaged or has another diff id."""
    digest = hashlib.sha256()

    def hashed() -> Iterator[bytes]:
        for chunk in _uncompressed(layer, task):
            digest.update(chunk)
            yield chunk

    layer_contents = Contents()
    stream = ChunkReader(hashed())
    try:
        with tarfile.open(fileobj=stream, mode="r|") as archive:
            for member in archive:
                _read_member(layer_contents, archive, member)
        while stream.read(CHUNK):
            pass  # bytes after the end of the tar are part of the digest
    except (tarfile.TarError, zlib.error, EOFError, RecursionError) as error:
        raise BundleInvalid(f"layer {layer.blob.digest}: {error}", "build the image again") from error
    if f"sha256:{digest.hexdigest()}" != diff_id:
        raise BundleInvalid(f"layer {layer.blob.digest} is not {diff_id}, which the image's config names", "build the image again")
    return layer_contents


def _uncompressed(layer: Layer, task: Task) -> Iterator[bytes]:
    decompressor = None if layer.media_type == TAR else zlib.decompressobj(wbits=31)
    for chunk in layer.blob.chunks():
        task.advance(len(chunk))
        if decompressor is None:
            yield chunk
            continue
        while chunk:
            yield decompressor.decompress(chunk, 4 * CHUNK)
            chunk = decompressor.unconsumed_tail  # noqa: PLW2901 -- the rest of the chunk
    if decompressor is not None:
        yield decompressor.flush()
        if not decompressor.eof:
            raise EOFError("the compressed layer ends early")


def _read_member(layer_contents: Contents, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
    """Add one entry of a layer, if its kind is listed."""
    path = member.name.removeprefix("./").strip("/")
    folder, _, name = path.rpartition("/")
    if name == OPAQUE:
        layer_contents.removed.append(f"{folder}/")
    elif name.startswith(WHITEOUT):
        layer_contents.removed.append(f"{folder}/{name.removeprefix(WHITEOUT)}".lstrip("/"))
    elif not member.isreg() or (source := archive.extractfile(member)) is None:
        return
    elif path.startswith(MODELS) or path == SERVING:
        layer_contents.files[path] = _hashed(source, layer_contents.documents, path)
    elif path == DPKG:
        layer_contents.debian = packages.dpkg_status(_text(source, path))
    elif PYTHON.fullmatch(path):
        if (package := packages.python_metadata(_text(source, path))) is not None:
            layer_contents.python[path.rpartition("/")[0]] = package
    elif path == JAVA or path in OS:
        layer_contents.documents[path] = packages.assignments(_text(source, path))
    elif (match := COPYRIGHT.fullmatch(path)) and (licences := packages.debian_licences(_text(source, path))):
        layer_contents.licences[match[1]] = licences


def _text(source: IO[bytes], path: str) -> str:
    return _bytes(source, path).decode(errors="replace")


def _bytes(source: IO[bytes], path: str) -> bytes:
    data = source.read(RECORD_LIMIT + 1)
    if len(data) > RECORD_LIMIT:
        raise BundleInvalid(f"{path} is larger than {RECORD_LIMIT >> 20} MiB", "build the image again")
    return data


def _version(value: Any) -> dict[str, str]:
    """Return version and folder of another version; {} when the value does not have both."""
    row = value if isinstance(value, dict) else {}
    fields = {key: row[key] for key in ("version", "model_dir") if isinstance(row.get(key), str)}
    return fields if len(fields) == 2 else {}


def _hashed(source: IO[bytes], documents: dict[str, dict[str, Any]], path: str) -> ModelFile:
    """Hash a file of the model; serving.json and torchrelay.json are also parsed into `documents`."""
    if path != SERVING and not path.endswith("/torchrelay.json"):
        digest, size = hashlib.sha256(), 0
        while chunk := source.read(CHUNK):
            digest.update(chunk)
            size += len(chunk)
        return ModelFile(digest.hexdigest(), size)
    data = _bytes(source, path)
    try:
        document = parse_untrusted(data)
    except ValueError:
        document = None
    if isinstance(document, dict):
        keys = ("name", "version", "model_dir", "weights")
        documents[path] = {key: document[key] for key in keys if isinstance(document.get(key), str)}
        if isinstance(rows := document.get("versions"), list):
            documents[path]["versions"] = [version for row in rows if (version := _version(row))]
    return ModelFile(hashlib.sha256(data).hexdigest(), len(data))
