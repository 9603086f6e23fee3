"""An OCI image layout 1.0 in a folder: one image, and blobs by digest; nothing that is read is believed before it is hashed."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from torchrelay.core.errors import BundleInvalid
from torchrelay.core.files import atomic_write
from torchrelay.core.progress import Task
from torchrelay.core.text import printable, shown
from torchrelay.oci.blobs import Blob, Slice
from torchrelay.oci.image import CONFIG_TYPE, MANIFEST_TYPE, Image, canonical
from torchrelay.oci.layers import TAR, TAR_GZIP, Layer

DIGEST = r"^sha256:[0-9a-f]{64}$"


AGAIN = "run `torchrelay bundle` again, and hand the folder over whole"


MOST_BYTES = 1 << 50


Digest = Annotated[str, Field(pattern=DIGEST, description="sha256 digest.")]


Size = Annotated[int, Field(ge=0, le=MOST_BYTES, description="Bytes.")]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Described(_Part):
    """A file of the bundle, under blobs/sha256/."""

    digest: Digest
    size: Size


MARKER = "oci-layout"
VERSION = "1.0.0"
INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
REF_NAME = "org.opencontainers.image.ref.name"
DOCUMENT_LIMIT = 64 << 20
CONTENT_LIMIT = 256 << 20


class Sealed(Blob):
    """A blob whose bytes are held against its digest as they are read: the last piece comes only when all are right."""

    def chunks(self) -> Iterator[bytes]:
        """Yield the bytes. Raises BundleInvalid before the end when they are others."""
        seen, last = hashlib.sha256(), b""
        try:
            for chunk in super().chunks():
                if last:
                    yield last
                seen.update(chunk)
                last = chunk
        except (OSError, EOFError) as error:
            raise BundleInvalid(f"the blob {self.digest} cannot be read: {error}", AGAIN) from error
        if f"sha256:{seen.hexdigest()}" != self.digest:
            raise BundleInvalid(f"the blob {self.digest} holds other bytes: sha256:{seen.hexdigest()}", AGAIN)
        yield last


@dataclass(frozen=True)
class PinnedImage(Image):
    """An image whose manifest and config are the bytes that were read."""

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
    """Return where a layout keeps its blobs."""
    return folder / "blobs" / "sha256"


def mark(folder: Path) -> None:
    """Write the file by which a layout is known."""
    write_file(folder / MARKER, canonical({"imageLayoutVersion": VERSION}))


def write_index(folder: Path, image: Image, tag: str) -> None:
    """Write index.json: the image, and what to call it."""
    row = {"mediaType": MANIFEST_TYPE, "digest": image.digest, "size": len(image.manifest_bytes), "annotations": {REF_NAME: tag}}
    row["platform"] = {"architecture": "amd64", "os": "linux"}
    write_file(folder / "index.json", canonical({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [row]}))


def write_file(path: Path, data: bytes) -> None:
    """Write a file, whole or not at all."""
    with atomic_write(path) as file:
        file.write(data)


def store(folder: Path, blob: Blob, task: Task) -> None:
    """Write a blob, in pieces, unless it is there already."""
    path = blobs_of(folder) / blob.digest.removeprefix("sha256:")
    known = Sealed(blob.digest, blob.size, (Slice(path, 0, blob.size),))
    if path.is_file() and path.stat().st_size == blob.size and _whole(known):
        return task.advance(blob.size)
    with atomic_write(path) as file:
        for chunk in Sealed(blob.digest, blob.size, blob.parts).chunks():
            file.write(chunk)
            task.advance(len(chunk))
    return None


def _whole(blob: Blob) -> bool:
    try:
        return all(True for _ in blob.chunks())
    except BundleInvalid:
        return False


def document(folder: Path, name: str, limit: int = DOCUMENT_LIMIT) -> bytes:
    """Return a plain file of the bundle. Raises BundleInvalid when it is not there, or too large."""
    path = folder / name
    try:
        if path.is_symlink() or not path.is_file():
            raise BundleInvalid(f"{printable(str(path))} is not there", f"name a folder that `torchrelay bundle` wrote; or {AGAIN}")
        if path.stat().st_size > limit:
            raise BundleInvalid(f"{name} is larger than {limit} bytes", AGAIN)
        return path.read_bytes()
    except OSError as error:
        raise BundleInvalid(f"{name} cannot be read: {error.strerror}", AGAIN) from error


def json_object(data: bytes, name: str) -> dict[str, Any]:
    """Return a JSON object. Raises BundleInvalid."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BundleInvalid(f"{name} is not JSON", AGAIN) from error
    if not isinstance(value, dict):
        raise BundleInvalid(f"{name} is not a JSON object", AGAIN)
    return value


def blob_at(folder: Path, described: Described) -> Sealed:
    """Return a blob of the layout, a plain file of the told size; whoever reads it has its digest checked."""
    path = blobs_of(folder) / described.digest.removeprefix("sha256:")
    if not path.is_file() or path.resolve().parent != blobs_of(folder.resolve()):
        raise BundleInvalid(f"the blob {described.digest} is not there", AGAIN)
    if path.stat().st_size != described.size:
        raise BundleInvalid(f"the blob {described.digest} has {path.stat().st_size} bytes, not {described.size}", AGAIN)
    return Sealed(described.digest, described.size, (Slice(path, 0, described.size),))


def content(folder: Path, described: Described) -> bytes:
    """Return the bytes of a small blob, checked. Raises BundleInvalid."""
    if described.size > CONTENT_LIMIT:
        raise BundleInvalid(f"the blob {described.digest} is larger than {CONTENT_LIMIT} bytes", AGAIN)
    return b"".join(blob_at(folder, described).chunks())


def _described(value: Any, media_type: str, where: str) -> Described:
    """Read a descriptor of the OCI layout."""
    if not isinstance(value, dict) or value.get("mediaType") != media_type:
        raise BundleInvalid(f"{where} is no {media_type}", AGAIN)
    try:
        return Described.model_validate({key: value.get(key) for key in ("digest", "size")})
    except ValidationError as error:
        raise BundleInvalid(f"{where} has no digest and size", AGAIN) from error


def image_at(folder: Path, manifest_digest: str, config_digest: str) -> Image:
    """Read the layout's one image. Raises BundleInvalid when it is another one than is named."""
    layout = json_object(document(folder, MARKER), MARKER)
    index = json_object(document(folder, "index.json"), "index.json")
    manifests = index.get("manifests")
    if layout.get("imageLayoutVersion") != VERSION or not isinstance(manifests, list) or len(manifests) != 1:
        raise BundleInvalid("the folder is no OCI image layout 1.0 of one image", AGAIN)
    pointed = _described(manifests[0], MANIFEST_TYPE, "the image of index.json")
    manifest_bytes = content(folder, pointed)
    manifest = json_object(manifest_bytes, "the manifest")
    described = _described(manifest.get("config"), CONFIG_TYPE, "the manifest's config")
    if (pointed.digest, described.digest) != (manifest_digest, config_digest):
        raise BundleInvalid(f"the layout holds image {pointed.digest}, release.json names {manifest_digest}", AGAIN)
    config_bytes = content(folder, described)
    config = json_object(config_bytes, "the image's config")
    rows, diffs = manifest.get("layers"), mapping(config.get("rootfs")).get("diff_ids")
    if not isinstance(rows, list) or not isinstance(diffs, list) or len(rows) != len(diffs) or not rows:
        raise BundleInvalid("the manifest's layers are not those of the config", AGAIN)
    layers = []
    for number, (row, diff, made_by) in enumerate(zip(rows, diffs, _made_by(config, len(rows)), strict=True)):
        media_type = TAR_GZIP if isinstance(row, dict) and row.get("mediaType") == TAR_GZIP else TAR
        layer = Layer(blob_at(folder, _described(row, media_type, f"layer {number}")), str(diff), media_type, made_by)
        if media_type == TAR and layer.diff_id != layer.blob.digest:
            raise BundleInvalid(f"layer {number} is {layer.blob.digest}, the config says {shown(diff, 80)}", AGAIN)
        layers.append(layer)
    return PinnedImage(config, tuple(layers), mapping(manifest.get("annotations")), config_bytes, manifest_bytes)


def _made_by(config: dict[str, Any], count: int) -> list[str]:
    history = config.get("history")
    steps = [step for step in history if isinstance(step, dict)] if isinstance(history, list) else []
    made = [str(step.get("created_by", "")) for step in steps if not step.get("empty_layer")]
    return made if len(made) == count else [""] * count


def mapping(value: Any) -> dict[str, Any]:
    """Return an object of JSON, an empty one for anything else."""
    return value if isinstance(value, dict) else {}
