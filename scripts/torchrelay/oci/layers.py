"""Image layers as tar: fixed order, owners and times, so that the same files give the same digest.

Layers are left uncompressed by default: plain tar costs one hash, and weights do not compress.
"""

import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from torchrelay.core.progress import Task
from torchrelay.oci.blobs import Blob, Part, from_parts

TAR = "application/vnd.oci.image.layer.v1.tar"
TAR_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
TAR_FORMAT = 1  # raise it with any change to the bytes of a tar: keys of cached layers contain it
BLOCK = 512
END = bytes(2 * BLOCK)


@dataclass(frozen=True)
class Layer:
    """One layer: its blob as pushed, the digest of its tar (`diff_id`), its media type and the step that created it."""

    blob: Blob
    diff_id: str
    media_type: str
    created_by: str

    def descriptor(self) -> dict[str, object]:
        """Return the manifest's entry (OCI image-spec 1.1)."""
        return {"mediaType": self.media_type, "digest": self.blob.digest, "size": self.blob.size}


@dataclass(frozen=True)
class LayerFile:
    """A file of a layer: absolute path in the image without the leading slash, and its content."""

    path: str
    content: Part
    size: int


def _header(name: str, size: int, *, folder: bool = False) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mtime, info.uid, info.gid = size, 0, 0, 0
    info.type = tarfile.DIRTYPE if folder else tarfile.REGTYPE
    info.mode = 0o755 if folder else 0o644
    return info.tobuf(tarfile.PAX_FORMAT)


def tar_parts(files: Iterable[LayerFile]) -> Iterator[Part]:
    """Yield the tar in pieces: headers and padding as bytes, contents unchanged (a slice of a file stays a slice)."""
    ordered = sorted(files, key=lambda file: file.path)
    folders = {str(parent) for file in ordered for parent in PurePosixPath(file.path).parents} - {"."}
    for folder in sorted(folders):
        yield _header(folder, 0, folder=True)
    for file in ordered:
        yield _header(file.path, file.size)
        if file.size:
            yield file.content
        if padding := -file.size % BLOCK:
            yield bytes(padding)
    yield END


def tar_layer(files: Iterable[LayerFile], created_by: str, task: Task) -> Layer:
    """Make a plain tar layer; it reads the contents once."""
    blob = from_parts(tuple(tar_parts(files)), task)
    return Layer(blob, blob.digest, TAR, created_by)
