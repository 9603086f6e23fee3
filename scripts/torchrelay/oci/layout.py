"""An OCI image layout 1.0 in a folder: one image, and blobs by digest. Nothing read from it is trusted before it is hashed."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from torchrelay.core.errors import BundleInvalid
from torchrelay.core.files import atomic_write
from torchrelay.core.json_text import parse_untrusted
from torchrelay.core.progress import Task
from torchrelay.core.text import printable, shown
from torchrelay.oci.blobs import Blob, Slice
from torchrelay.oci.image import CONFIG_TYPE, MANIFEST_TYPE, Image, canonical
from torchrelay.oci.layers import TAR, TAR_GZIP, Layer

DIGEST = r"^sha256:[0-9a-f]{64}$"
REBUNDLE = "run `torchrelay bundle` again and pass on the whole folder"
MOST_BYTES = 1 << 50

Digest = Annotated[str, Field(pattern=DIGEST, description="sha256 digest.")]
Size = Annotated[int, Field(ge=0, le=MOST_BYTES, description="Bytes.")]


class BundlePart(BaseModel):
    """A part of release.json: unknown keys and other types are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Described(BundlePart):
    """A file of the bundle, under blobs/sha256/."""

    digest: Digest
    size: Size


MARKER = "oci-layout"
VERSION = "1.0.0"
INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
REF_NAME = "org.opencontainers.image.ref.name"
DOCUMENT_LIMIT = 64 << 20
CONTENT_LIMIT = 256 << 20


class CheckedBlob(Blob):
    """A blob that is hashed while it is read: the last piece is yielded only if the digest of all pieces is right."""

    def chunks(self) -> Iterator[bytes]:
        """Yield the bytes. Raises BundleInvalid instead of the last piece when they have another digest."""
        digest, last = hashlib.sha256(), b""
        try:
            for chunk in super().chunks():
                if last:
                    yield last
                digest.update(chunk)
                last = chunk
        except (OSError, EOFError) as error:
            raise BundleInvalid(f"the blob {self.digest} cannot be read: {error}", REBUNDLE) from error
        if f"sha256:{digest.hexdigest()}" != self.digest:
            raise BundleInvalid(f"the blob {self.digest} has other bytes: sha256:{digest.hexdigest()}", REBUNDLE)
        yield last


@dataclass(frozen=True)
class PinnedImage(Image):
    """An image whose manifest and config keep the bytes that were read."""

    config_read: bytes = b""
    manifest_read: bytes = b""

    @cached_property
    def config_bytes(self) -> bytes:
        """See `Image.config_bytes`."""
        return self.config_read

    @cached_property
    def manifest_bytes(self) -> bytes:
        """See `Image.manifest_bytes`."""
        return self.manifest_read


def blobs_of(folder: Path) -> Path:
    """Return the folder of a layout's blobs."""
    return folder / "blobs" / "sha256"


def mark(folder: Path) -> None:
    """Write the file that marks a folder as a layout."""
    write_file(folder / MARKER, canonical({"imageLayoutVersion": VERSION}))


def write_index(folder: Path, image: Image, tag: str) -> None:
    """Write index.json: the image and its tag."""
    row = {"mediaType": MANIFEST_TYPE, "digest": image.digest, "size": len(image.manifest_bytes), "annotations": {REF_NAME: tag}}
    row["platform"] = {"architecture": "amd64", "os": "linux"}
    write_file(folder / "index.json", canonical({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [row]}))


def write_file(path: Path, data: bytes) -> None:
    """Write a file atomically."""
    with atomic_write(path) as file:
        file.write(data)


def store(folder: Path, blob: Blob, task: Task) -> None:
    """Write a blob in pieces, unless it is there already."""
    path = blobs_of(folder) / blob.digest.removeprefix("sha256:")
    stored = CheckedBlob(blob.digest, blob.size, (Slice(path, 0, blob.size),))
    if path.is_file() and path.stat().st_size == blob.size and _is_complete(stored):
        return task.advance(blob.size)
    with atomic_write(path) as file:
        for chunk in CheckedBlob(blob.digest, blob.size, blob.parts).chunks():
            file.write(chunk)
            task.advance(len(chunk))
    return None


def _is_complete(blob: Blob) -> bool:
    try:
        return all(True for _ in blob.chunks())
    except BundleInvalid:
        return False


def document(folder: Path, name: str, limit: int = DOCUMENT_LIMIT) -> bytes:
    """Return the content of a file of the bundle. Raises BundleInvalid when it is missing, not a plain file, or too large."""
    path = folder / name
    try:
        if path.is_symlink() or not path.is_file():
            raise BundleInvalid(
                f"{printable(str(path))} is missing", f"name a folder written by `torchrelay bundle`, or {REBUNDLE}"
            )
        if path.stat().st_size > limit:
            raise BundleInvalid(f"{name} is larger than {limit} bytes", REBUNDLE)
        return path.read_bytes()
    except OSError as error:
        raise BundleInvalid(f"{name} cannot be read: {error.strerror}", REBUNDLE) from error


def json_object(data: bytes, name: str) -> dict[str, Any]:
    """Parse an untrusted JSON object. Raises BundleInvalid."""
    try:
        value = parse_untrusted(data)
    except ValueError as error:
        raise BundleInvalid(f"{name} is not JSON", REBUNDLE) from error
    if not isinstance(value, dict):
        raise BundleInvalid(f"{name} is not a JSON object", REBUNDLE)
    return value


def blob_at(folder: Path, described: Described) -> CheckedBlob:
    """Return a blob of the layout, a plain file of the described size; its digest is checked when it is read."""
    path = blobs_of(folder) / described.digest.removeprefix("sha256:")
    if not path.is_file() or path.resolve().parent != blobs_of(folder.resolve()):
        raise BundleInvalid(f"the blob {described.digest} is missing", REBUNDLE)
    if path.stat().st_size != described.size:
        raise BundleInvalid(f"the blob {described.digest} has {path.stat().st_size} bytes, not {described.size}", REBUNDLE)
    return CheckedBlob(described.digest, described.size, (Slice(path, 0, described.size),))


def content(folder: Path, described: Described) -> bytes:
    """Return the checked bytes of a small blob. Raises BundleInvalid."""
    if described.size > CONTENT_LIMIT:
        raise BundleInvalid(f"the blob {described.digest} is larger than {CONTENT_LIMIT} bytes", REBUNDLE)
    return b"".join(blob_at(folder, described).chunks())


def _described(value: Any, media_type: str, where: str) -> Described:
    """Parse a descriptor of the OCI layout. Raises BundleInvalid."""
    if not isinstance(value, dict) or value.get("mediaType") != media_type:
        raise BundleInvalid(f"{where} is not a {media_type}", REBUNDLE)
    try:
        return Described.model_validate({key: value.get(key) for key in ("digest", "size")})
    except ValidationError as error:
        raise BundleInvalid(f"{where} has no digest and size", REBUNDLE) from error


def image_at(folder: Path, manifest_digest: str, config_digest: str) -> Image:
    """Read the layout's only image. Raises BundleInvalid when it does not have these digests."""
    layout = json_object(document(folder, MARKER), MARKER)
    index = json_object(document(folder, "index.json"), "index.json")
    manifests = index.get("manifests")
    if layout.get("imageLayoutVersion") != VERSION or not isinstance(manifests, list) or len(manifests) != 1:
        raise BundleInvalid("the folder is not an OCI image layout 1.0 of one image", REBUNDLE)
    listed = _described(manifests[0], MANIFEST_TYPE, "the image of index.json")
    manifest_bytes = content(folder, listed)
    manifest = json_object(manifest_bytes, "the manifest")
    described = _described(manifest.get("config"), CONFIG_TYPE, "the manifest's config")
    if (listed.digest, described.digest) != (manifest_digest, config_digest):
        raise BundleInvalid(f"the layout contains image {listed.digest}, release.json names {manifest_digest}", REBUNDLE)
    config_bytes = content(folder, described)
    config = json_object(config_bytes, "the image's config")
    rows, diffs = manifest.get("layers"), mapping(config.get("rootfs")).get("diff_ids")
    if not isinstance(rows, list) or not isinstance(diffs, list) or len(rows) != len(diffs) or not rows:
        raise BundleInvalid("the manifest's layers are not the layers of the config", REBUNDLE)
    layers = []
    for number, (row, diff, created_by) in enumerate(zip(rows, diffs, _created_by(config, len(rows)), strict=True)):
        media_type = TAR_GZIP if isinstance(row, dict) and row.get("mediaType") == TAR_GZIP else TAR
        layer = Layer(blob_at(folder, _described(row, media_type, f"layer {number}")), str(diff), media_type, created_by)
        if media_type == TAR and layer.diff_id != layer.blob.digest:
            raise BundleInvalid(f"layer {number} is {layer.blob.digest}, the config says {shown(diff, 80)}", REBUNDLE)
        layers.append(layer)
    return PinnedImage(config, tuple(layers), mapping(manifest.get("annotations")), config_bytes, manifest_bytes)


def _created_by(config: dict[str, Any], count: int) -> list[str]:
    history = config.get("history")
    steps = [step for step in history if isinstance(step, dict)] if isinstance(history, list) else []
    commands = [str(step.get("created_by", "")) for step in steps if not step.get("empty_layer")]
    return commands if len(commands) == count else [""] * count


def mapping(value: Any) -> dict[str, Any]:
    """Return a JSON object as it is, and {} for anything else."""
    return value if isinstance(value, dict) else {}
