"""The runtime image: TorchServe, its front and their Python, built rarely and addressed by the digest of its inputs.

Its layers are kept gzip'd in the cache, so that later builds and pushes need neither the daemon nor a second compression.
"""

import gzip
import hashlib
import io
import json
import os
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from fcntl import LOCK_EX, flock
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from torchrelay import image as images
from torchrelay import layout
from torchrelay.engine import daemon, has_image
from torchrelay.errors import BuildFailed
from torchrelay.image import Image
from torchrelay.layers import TAR_GZIP, Layer
from torchrelay.report import Progress, log
from torchrelay.store import HashingWriter, adopt
from torchrelay.workspace import atomic_write

if TYPE_CHECKING:
    from docker import DockerClient

REPOSITORY = "torchrelay/runtime"
BUILD_ARGUMENTS = {
    "BASE_IMAGE": "TORCHRELAY_BASE_IMAGE",
    "TORCH_VERSION": "TORCHRELAY_TORCH_VERSION",
    "TORCHSERVE_VERSION": "TORCHRELAY_TORCHSERVE_VERSION",
    "TORCH_INDEX_URL": "TORCHRELAY_TORCH_INDEX",
}
JSON_LIMIT = 4 << 20


@dataclass(frozen=True)
class RuntimeSettings:
    """What the runtime image is made of; empty build arguments take the Dockerfile's defaults."""

    device: str
    arguments: dict[str, str]
    wheels: Path | None

    @staticmethod
    def from_environment(device: str) -> "RuntimeSettings":
        """Read TORCHRELAY_BASE_IMAGE, _TORCH_VERSION, _TORCHSERVE_VERSION, _TORCH_INDEX and _WHEELS (a folder of wheels)."""
        arguments = {name: os.environ[key] for name, key in BUILD_ARGUMENTS.items() if os.environ.get(key)}
        wheels = os.environ.get("TORCHRELAY_WHEELS")
        return RuntimeSettings(device, arguments, Path(wheels) if wheels and device == "cpu" else None)


def context_files(settings: RuntimeSettings) -> dict[str, Path]:
    """Return the build context: name -> file, sorted."""
    files = {"Dockerfile": layout.DOCKERFILE, "requirements/runtime.txt": layout.RUNTIME_REQUIREMENTS}
    for file in layout.RUNTIME.rglob("*"):
        if file.is_file() and "__pycache__" not in file.parts:
            files[f"runtime/{file.relative_to(layout.RUNTIME).as_posix()}"] = file
    if settings.wheels is not None:
        files.update({f"wheels/{wheel.name}": wheel for wheel in settings.wheels.glob("*.whl")})
    return dict(sorted(files.items()))


def inputs_digest(settings: RuntimeSettings) -> str:
    """Return the sha256 (hex) of the build context and the build arguments."""
    digest = hashlib.sha256(json.dumps([settings.device, settings.arguments], sort_keys=True).encode())
    for name, path in context_files(settings).items():
        with path.open("rb") as file:
            digest.update(f"{name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()


def tag_of(inputs: str) -> str:
    """Return the local tag of a runtime image."""
    return f"{REPOSITORY}:{inputs[:16]}"


def ensure_runtime(settings: RuntimeSettings, progress: Progress) -> Image:
    """Return the runtime image of these inputs: from the cache, else from the daemon, else built.

    Raises DockerUnavailable, BuildFailed with the end of the build's log, DiskFull.
    """
    inputs = inputs_digest(settings)
    record = layout.cache_dir() / "runtime" / f"{inputs}.json"
    record.parent.mkdir(parents=True, exist_ok=True)
    with record.with_suffix(".lock").open("w") as lock:
        flock(lock, LOCK_EX)
        if (found := images.load(record)) is not None:
            return found[0]
        with daemon() as client:
            if not has_image(client, tag_of(inputs)):
                _build(client, settings, inputs)
            image = _export(client, tag_of(inputs), inputs, progress)
        images.save(record, image)
    return image


def _context(settings: RuntimeSettings) -> Iterator[bytes]:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        folder = tarfile.TarInfo("wheels")
        folder.type, folder.mode = tarfile.DIRTYPE, 0o755
        archive.addfile(folder)
        for name, path in context_files(settings).items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = path.stat().st_size, 0o644
            with path.open("rb") as file:
                archive.addfile(info, file)
    yield buffer.getvalue()


def _build(client: "DockerClient", settings: RuntimeSettings, inputs: str) -> None:
    log.info("building the runtime image %s (once for these versions; it takes minutes)", tag_of(inputs))
    arguments = settings.arguments | {"DEVICE": settings.device}
    labels = {"org.torchrelay.runtime": inputs}
    tail: list[str] = []
    stream = client.api.build(
        fileobj=io.BytesIO(b"".join(_context(settings))),
        custom_context=True,
        tag=tag_of(inputs),
        buildargs=arguments,
        labels=labels,
        rm=True,
        forcerm=True,
        decode=True,
    )
    for message in stream:
        if "error" in message:
            end = "\n".join(tail[-25:])
            raise BuildFailed(
                f"the runtime image did not build: {message['error'].strip()}\n{end}", "see the build's log above"
            )
        if text := message.get("stream", "").rstrip():
            tail.append(text)
            log.debug("%s", text)
            if text.startswith("Step "):
                log.info("  %s", text.splitlines()[0][:150])


def _export(client: "DockerClient", tag: str, inputs: str, progress: Progress) -> Image:
    log.info("compressing the runtime image's layers (once)")
    size = client.images.get(tag).attrs["Size"]
    documents: dict[str, Any] = {}
    layers: dict[str, Layer] = {}
    with progress.task("export the runtime image", size) as task:

        def counted() -> Iterator[bytes]:
            for chunk in client.api.get_image(tag):
                task.advance(len(chunk))
                yield chunk

        with tarfile.open(fileobj=ChunkReader(counted()), mode="r|") as archive:
            for member in archive:
                if member.islnk() or member.issym():
                    target = os.path.normpath(Path(member.name).parent / member.linkname)
                    layers[member.name] = layers[target]
                elif member.isreg():
                    _take(member, archive, documents, layers)
    manifest = documents["manifest.json"][0]
    config = documents[manifest["Config"]]
    ordered = tuple(layers[name] for name in manifest["Layers"])
    expected = config["rootfs"]["diff_ids"]
    actual = [layer.diff_id for layer in ordered]
    if expected != actual:
        raise BuildFailed(f"the daemon exported layers {actual} where the image's config says {expected}")
    return Image(_clean(config), ordered, {"org.torchrelay.runtime": inputs})


def _take(
    member: tarfile.TarInfo, archive: tarfile.TarFile, documents: dict[str, Any], layers: dict[str, Layer]
) -> None:
    source = archive.extractfile(member)
    if source is None:
        return
    head = source.read(1)
    if member.size <= JSON_LIMIT and head in (b"{", b"["):
        documents[member.name] = json.loads(head + source.read())
    elif member.size >= 512:
        layers[member.name] = _compressed(head, source)


def _compressed(head: bytes, source: IO[bytes]) -> Layer:
    """Return a layer stored gzip'd; one that the daemon already exports gzip'd is kept as it is."""
    plain = hashlib.sha256()
    path = layout.cache_dir() / "blobs" / "incoming" / f"runtime-{os.getpid()}"
    with atomic_write(path) as file:
        writer = HashingWriter(file)
        head += source.read(1)
        if head == b"\x1f\x8b":
            inflate = zlib.decompressobj(wbits=31)
            for chunk in _rest(head, source):
                writer.write(chunk)
                plain.update(inflate.decompress(chunk))
        else:
            with gzip.GzipFile(filename="", fileobj=writer, mode="wb", compresslevel=6, mtime=0) as packed:  # type: ignore[arg-type] # write, flush are all it calls
                for chunk in _rest(head, source):
                    plain.update(chunk)
                    packed.write(chunk)
    blob = adopt(path, writer.digest)
    return Layer(blob, f"sha256:{plain.hexdigest()}", TAR_GZIP, "torchrelay runtime")


def _rest(head: bytes, source: IO[bytes]) -> Iterator[bytes]:
    yield head
    while chunk := source.read(1 << 20):
        yield chunk


def _clean(config: dict[str, Any]) -> dict[str, Any]:
    """Return the config without what a build leaves of its own machine."""
    kept = {key: config[key] for key in ("architecture", "os", "created", "rootfs") if key in config}
    kept["config"] = {
        key: value for key, value in config["config"].items() if key not in ("Hostname", "Image", "Domainname")
    }
    kept["history"] = [
        {"created_by": step.get("created_by", ""), **({"empty_layer": True} if step.get("empty_layer") else {})}
        for step in config.get("history", [])
    ]
    return kept


class ChunkReader(io.RawIOBase):
    """A readable file over an iterator of chunks."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._left = b""

    def readable(self) -> bool:
        """Tell that it can be read."""
        return True

    def read(self, size: int = -1) -> bytes:
        """Return `size` bytes, fewer at the end."""
        pieces, missing = [], size
        while missing and (self._left or self._more()):
            piece = self._left if missing < 0 else self._left[:missing]
            self._left = self._left[len(piece) :]
            pieces.append(piece)
            missing -= len(piece) if missing > 0 else 0
        return b"".join(pieces)

    def _more(self) -> bool:
        self._left = next(self._chunks, b"")
        return bool(self._left)
