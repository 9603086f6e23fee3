"""The runtime image: TorchServe, its front and their Python, built rarely and addressed by the digest of its inputs.

The cache keeps its layers gzip'd, so later builds and pushes need neither the daemon nor a second compression.
"""

import gzip
import hashlib
import json
import os
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from pydantic import Field

from torchrelay.core import paths
from torchrelay.core.errors import BuildFailed
from torchrelay.core.files import CHUNK, ChunkReader, read_json, write_json
from torchrelay.core.locks import LONGEST_S, exclusive
from torchrelay.core.log import log
from torchrelay.core.progress import Progress, Task
from torchrelay.core.settings import TorchSettings
from torchrelay.docker.daemon import daemon, has_image, load
from torchrelay.oci.blobs import Slice, stored_blob, write_blob
from torchrelay.oci.image import Image, load_image, save_image
from torchrelay.oci.layers import TAR_GZIP, Layer

if TYPE_CHECKING:
    from docker import DockerClient

REPOSITORY = "torchrelay/runtime"
BUSY = "another process ({}) is building the runtime image"
JSON_LIMIT = 4 << 20  # bytes
GZIP_MAGIC = b"\x1f\x8b"


class BuildSettings(TorchSettings):
    """The environment variables that change the runtime image."""

    read_by = "build"

    base_image: str = Field("", description="Base image of the runtime image, instead of the one that the Dockerfile names.")
    torchserve_version: str = Field("", description="Version of TorchServe in the runtime image.")

    @property
    def arguments(self) -> dict[str, str]:
        """The build arguments for the Dockerfile, without the empty ones."""
        arguments = {
            "BASE_IMAGE": self.base_image,
            "TORCH_VERSION": self.torch_version,
            "TORCHSERVE_VERSION": self.torchserve_version,
            "TORCH_INDEX_URL": self.torch_index,
        }
        return {name: value for name, value in arguments.items() if value}


@dataclass(frozen=True)
class RuntimeSettings:
    """The inputs of the runtime image; the Dockerfile has defaults for missing build arguments."""

    device: str
    arguments: dict[str, str]
    wheels: Path | None

    @staticmethod
    def from_environment(device: str) -> "RuntimeSettings":
        """Return the settings for a device; the folder of wheels counts for cpu alone. Raises InputsInvalid."""
        settings = BuildSettings.read()
        return RuntimeSettings(device, settings.arguments, settings.wheels if device == "cpu" else None)


def context_files(settings: RuntimeSettings) -> dict[str, Path]:
    """Return the build context, name -> file, sorted."""
    files = {"Dockerfile": paths.DOCKERFILE, "requirements/runtime.txt": paths.RUNTIME_REQUIREMENTS}
    for file in paths.RUNTIME.rglob("*"):
        if file.is_file() and "__pycache__" not in file.parts:
            files[f"runtime/{file.relative_to(paths.RUNTIME).as_posix()}"] = file
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
    """Return the runtime image of these inputs: from the cache, otherwise from the daemon, otherwise built.

    Raises DockerUnavailable, BuildFailed with the end of the build's log, DiskFull.
    """
    inputs = inputs_digest(settings)
    record = paths.cache_dir() / "runtime" / f"{inputs}.json"
    with exclusive(record.with_suffix(".lock"), BUSY, LONGEST_S):
        if (cached := load_image(record)) is not None:
            return cached[0]
        with daemon() as client:
            build_if_missing(client, settings)
            image = _export(client, tag_of(inputs), inputs, progress)
        save_image(record, image)
    return image


def build_if_missing(client: "DockerClient", settings: RuntimeSettings) -> str:
    """Build the runtime image unless the daemon has it, and return its tag. Raises BuildFailed with the end of the build's log."""
    inputs = inputs_digest(settings)
    if not has_image(client, tag_of(inputs)):
        _build(client, settings, inputs)
    return tag_of(inputs)


def trusted_runtime(client: "DockerClient", device: str, progress: Progress) -> str:
    """Return the id of the runtime image that this Torchrelay builds for a device, loaded into the daemon.

    It is named by the digest of its config, so no tag, and nothing in a model's image, decides what runs. A machine that lacks it
    builds it. Raises what `ensure_runtime` raises.
    """
    runtime = ensure_runtime(RuntimeSettings.from_environment(device), progress)
    load(client, runtime, f"{REPOSITORY}:{runtime.config_digest[7:23]}", progress)
    return runtime.config_digest


def _write_context(settings: RuntimeSettings, file: IO[bytes]) -> None:
    with tarfile.open(fileobj=file, mode="w") as archive:
        folder = tarfile.TarInfo("wheels")
        folder.type, folder.mode = tarfile.DIRTYPE, 0o755
        archive.addfile(folder)
        for name, path in context_files(settings).items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = path.stat().st_size, 0o644
            with path.open("rb") as content:
                archive.addfile(info, content)
    file.seek(0)


def _build(client: "DockerClient", settings: RuntimeSettings, inputs: str) -> None:
    log.info("building the runtime image %s (once for these versions; it takes minutes)", tag_of(inputs))
    arguments = settings.arguments | {"DEVICE": settings.device}
    labels = {"org.torchrelay.runtime": inputs}
    tail: list[str] = []
    with tempfile.TemporaryFile() as context:
        _write_context(settings, context)
        stream = client.api.build(
            fileobj=context,
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
                    f"the runtime image did not build: {message['error'].strip()}\n{end}", "read the build's log above"
                )
            if text := message.get("stream", "").rstrip():
                tail.append(text)
                log.debug("%s", text)
                if text.startswith("Step "):
                    log.info("  %s", text.splitlines()[0][:150])


def _export(client: "DockerClient", tag: str, inputs: str, progress: Progress) -> Image:
    """Export the image from the daemon: raw layers into a scratch folder, then each gzip'd once, by its diff id."""
    log.info("exporting the runtime image (once)")
    scratch = paths.cache_dir() / "blobs" / "incoming"
    scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        with progress.task("export the runtime image", client.images.get(tag).attrs["Size"]) as task:
            documents, files = _save(client.api.get_image(tag), Path(folder), task)
        manifest = documents["manifest.json"][0]
        config = documents[manifest["Config"]]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            layers = tuple(pool.map(_compressed, [files[name] for name in manifest["Layers"]]))
    expected = config["rootfs"]["diff_ids"]
    actual = [layer.diff_id for layer in layers]
    if expected != actual:
        raise BuildFailed(f"the daemon exported layers {actual}, the image's config lists {expected}")
    return Image(_clean(config), layers, {"org.torchrelay.runtime": inputs})


def _save(chunks: Iterator[bytes], folder: Path, task: Task) -> tuple[dict[str, Any], dict[str, Path]]:
    """Unpack `docker save`: return its JSON documents by name, and the path of every other file by name (links followed)."""
    documents: dict[str, Any] = {}
    files: dict[str, Path] = {}

    def counted() -> Iterator[bytes]:
        for chunk in chunks:
            task.advance(len(chunk))
            yield chunk

    with tarfile.open(fileobj=ChunkReader(counted()), mode="r|") as archive:
        for member in archive:
            source = archive.extractfile(member) if member.isreg() else None
            if member.islnk() or member.issym():
                files[member.name] = files[os.path.normpath(Path(member.name).parent / member.linkname)]
            elif source is not None and member.size <= JSON_LIMIT and (content := source.read())[:1] in (b"{", b"["):
                documents[member.name] = json.loads(content)
            elif source is not None:
                path = folder / str(len(files))
                with path.open("wb") as file:
                    if member.size <= JSON_LIMIT:
                        file.write(content)
                    shutil.copyfileobj(source, file, CHUNK)
                files[member.name] = path
    return documents, files


def _compressed(path: Path) -> Layer:
    """Return a gzip'd layer in the cache; one that was compressed before, or arrives gzip'd, is not compressed again."""
    with path.open("rb") as file:
        compressed = file.read(2) == GZIP_MAGIC
    with gzip.open(path) if compressed else path.open("rb") as source:
        diff_id = f"sha256:{hashlib.file_digest(source, 'sha256').hexdigest()}"
    record = paths.cache_dir() / "layers" / f"gzip-{diff_id.removeprefix('sha256:')}.json"
    known = read_json(record)
    blob = stored_blob(known["digest"]) if isinstance(known, dict) and "digest" in known else None
    if blob is None:
        blob = write_blob(Slice(path, 0, path.stat().st_size).chunks() if compressed else _gzip(path))
        write_json(record, {"digest": blob.digest})
    return Layer(blob, diff_id, TAR_GZIP, "torchrelay runtime")


def _gzip(path: Path) -> Iterator[bytes]:
    """Yield a file gzip'd at level 6, without a name or a time."""
    compressor = zlib.compressobj(6, zlib.DEFLATED, wbits=31)
    for chunk in Slice(path, 0, path.stat().st_size).chunks():
        if compressed := compressor.compress(chunk):
            yield compressed
    yield compressor.flush()


def _clean(config: dict[str, Any]) -> dict[str, Any]:
    """Return the config without the traces of the machine that built it."""
    clean: dict[str, Any] = {key: config[key] for key in ("architecture", "os", "created", "rootfs") if key in config}
    clean["config"] = {key: value for key, value in config["config"].items() if key not in ("Hostname", "Image", "Domainname")}
    clean["history"] = [
        {"created_by": step.get("created_by", ""), **({"empty_layer": True} if step.get("empty_layer") else {})}
        for step in config.get("history", [])
    ]
    return clean
