"""Push: sends exactly the verified image, and only the blobs that the registry lacks."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchrelay.core.errors import NotVerified, RegistryError
from torchrelay.core.files import read_json, write_json
from torchrelay.core.progress import Progress
from torchrelay.core.workspace import Workspace
from torchrelay.oci.access import registry_for
from torchrelay.oci.image import Image, load_image
from torchrelay.oci.reference import Reference, parse_reference
from torchrelay.oci.registry import Registry
from torchrelay.verification.verdict import require_passing

if TYPE_CHECKING:
    from torchrelay.stages.bundle import Bundle

UPLOADS_AT_ONCE = 3


@dataclass(frozen=True)
class Pushed:
    """A pushed image: `repository@digest`, the tag, and how many blobs and bytes were sent."""

    reference: str
    tag: str
    digest: str
    config_digest: str
    blobs: int
    bytes: int

    def summary(self) -> dict[str, Any]:
        """Return what the CLI prints."""
        return {**asdict(self), "repository": self.reference.partition("@")[0], "skipped": self.bytes == 0}


@contextmanager
def uploaders(registry: Registry) -> Iterator[ThreadPoolExecutor]:
    """Provide threads to upload with; on any error, Ctrl-C too, no upload is started and a silent registry is not waited for."""
    pool = ThreadPoolExecutor(UPLOADS_AT_ONCE)
    try:
        yield pool
    except BaseException:
        registry.stop.set()
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()


def push_image(image: Image, registry: Registry, target: Reference, progress: Progress) -> Pushed:
    """Send the missing blobs, then the manifest, then compare the registry's digest with the image's.

    Raises RegistryError.
    """
    name = f"{target.name}@{image.digest}"
    if registry.manifest_digest(target.repository, target.tag) == image.digest:
        return Pushed(name, target.tag, image.digest, image.config_digest, 0, 0)
    with uploaders(registry) as pool:
        existing = list(pool.map(lambda blob: registry.has_blob(target.repository, blob.digest), image.blobs()))
        missing = [blob for blob, present in zip(image.blobs(), existing, strict=True) if not present]
        with progress.task(f"push {target.name}", sum(blob.size for blob in missing)) as task:
            list(pool.map(lambda blob: registry.put_blob(target.repository, blob, task), missing))
    sent = sum(blob.size for blob in missing)
    digest = registry.put_manifest(target.repository, target.tag, image.manifest_bytes)
    if digest != image.digest:
        raise RegistryError(f"{target.name}: the registry stored the manifest as {digest}; expected {image.digest}")
    return Pushed(name, target.tag, image.digest, image.config_digest, len(missing), sent + len(image.manifest_bytes))


def run(model_dir: Path, destination: str, progress: Progress, *, create: bool = False) -> Pushed:
    """Push the built image, if a passing verdict is bound to its config digest.

    `destination` is `host/repository[:tag]`; the tag defaults to the model's version. Raises NotVerified, RegistryError.
    """
    workspace = Workspace(model_dir)
    loaded = load_image(workspace.image_record)
    if loaded is None:
        raise NotVerified(f"{model_dir}: there is no built image", "run `torchrelay build`, then `torchrelay verify`")
    image, _ = loaded
    passed = require_passing(workspace, image.config_digest)
    return _pushed(workspace, image, destination, passed.version, progress, create=create)


def run_bundle(bundle: "Bundle", destination: str, progress: Progress, *, create: bool = False) -> Pushed:
    """Push the image of a bundle; each blob is checked against its digest on the way. Raises BundleInvalid, RegistryError."""
    return _pushed(Workspace(bundle.folder), bundle.image, destination, bundle.version, progress, create=create)


def _pushed(workspace: Workspace, image: Image, destination: str, version: str, progress: Progress, *, create: bool) -> Pushed:
    target = parse_reference(destination, version)
    pushed = push_image(image, registry_for(target, create=create), target, progress)
    workspace.ensure()
    write_json(workspace.push_record, asdict(pushed))
    return pushed


def last_push(workspace: Workspace, config_digest: str | None) -> Pushed | None:
    """Return the last push, if it was of this image."""
    try:
        pushed = Pushed(**read_json(workspace.push_record))
    except TypeError:
        return None
    if not all(isinstance(one, str) for one in (pushed.reference, pushed.digest)):
        return None
    return pushed if config_digest and pushed.config_digest == config_digest else None
