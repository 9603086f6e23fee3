"""The setup layer: the files that a handler's install_packages and unpack_dependencies create, run once in the runtime image.

They see what a handler's setup sees at start-up: the requirements are installed, the archive (except the weights) is unpacked in
the model's folder, and the network is available. The files that they leave in that folder or install with pip go into the image.
"""

import hashlib
import re
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchrelay.core import paths
from torchrelay.core.errors import DependenciesUnresolved
from torchrelay.core.files import ChunkReader, read_json, write_json
from torchrelay.core.log import log
from torchrelay.core.progress import Progress
from torchrelay.core.text import printable
from torchrelay.docker.daemon import daemon, load
from torchrelay.docker.scratch import scratch_container
from torchrelay.image.dependencies import CACHE_KEY_VARS, pip_environment, run_to_end
from torchrelay.image.mar import Archived
from torchrelay.oci.blobs import Slice, stored_blob, write_blob
from torchrelay.oci.image import Image
from torchrelay.oci.layers import TAR, TAR_FORMAT, Layer, LayerFile, tar_parts

if TYPE_CHECKING:
    from docker.models.containers import Container

TIMEOUT_S = 1800
LIBRARY = "torchrelay_handlers/"
CREATED_BY = "torchrelay setup"
NAMES = re.compile(rb"\b(install_packages|unpack_dependencies)\b")
PROGRAM = Path(__file__).with_name("setup_program.py")
RESULT = "/tmp/torchrelay-setup.tar"  # noqa: S108 -- inside the container
SITE = re.compile(re.escape(paths.IMAGE_DEPS.lstrip("/")) + r"/(lib/python3[^/]*/site-packages)/")
# Any command may write here; losing such files is harmless.
IGNORED_PATHS = ("/tmp", "/var/tmp", "/var/cache", "/var/log", "/root", "/run")  # noqa: S108 -- compared with, not used


def has_setup(archived: Archived) -> bool:
    """Return whether the author's code mentions either function; only running it shows whether they do anything."""
    return any(
        NAMES.search(b"".join(Slice(archived.path, entry.offset, entry.size).chunks()))
        for name, entry in archived.entries.items()
        if name.endswith(".py") and not name.startswith(LIBRARY)
    )


def setup_layer(
    model_dir: Path, runtime: Image, archived: Archived, dependencies: Layer | None, folder: str, progress: Progress
) -> tuple[str | None, Layer] | None:
    """Return the folder that pip installed to (None if it did not) and the layer; None when nothing runs or nothing was created.

    `folder` is the model's folder in the image, without the leading slash. Raises DependenciesUnresolved with the function's error.
    """
    if not has_setup(archived):
        return None
    record = paths.cache_dir() / "layers" / f"setup-{_key(runtime, archived, dependencies, folder)}.json"
    known = read_json(record)
    if isinstance(known, dict) and "digest" in known:
        if known["digest"] is None:
            return None
        if (blob := stored_blob(known["digest"])) is not None:
            return known["folder"], Layer(blob, blob.digest, TAR, CREATED_BY)
    log.info("running the handler's install_packages and unpack_dependencies (once for this code)")
    with tempfile.TemporaryDirectory() as scratch:
        tar = Path(scratch) / "setup.tar"
        _run(model_dir, runtime, archived, dependencies, folder, tar, progress)
        names = _names(tar, folder)
        if not names:
            write_json(record, {"digest": None, "folder": None})
            return None
        blob = write_blob(Slice(tar, 0, tar.stat().st_size).chunks())
    site = next((match[1] for name in names if (match := SITE.match(name))), None)
    imports = f"{paths.IMAGE_DEPS}/{site}" if site else None
    write_json(record, {"digest": blob.digest, "folder": imports})
    return imports, Layer(blob, blob.digest, TAR, CREATED_BY)


def _key(runtime: Image, archived: Archived, dependencies: Layer | None, folder: str) -> str:
    digest = hashlib.sha256(f"{TAR_FORMAT} {runtime.config_digest} {dependencies and dependencies.diff_id} {folder}\n".encode())
    digest.update(PROGRAM.read_bytes())
    digest.update("".join(f"{name}={value}\n" for name, value in pip_environment().items() if name in CACHE_KEY_VARS).encode())
    for name, entry in sorted(archived.entries.items()):
        if name != archived.weights and not name.startswith(LIBRARY):
            digest.update(f"{entry.sha256}  {name}\n".encode())
    return digest.hexdigest()


def _run(
    model_dir: Path,
    runtime: Image,
    archived: Archived,
    dependencies: Layer | None,
    folder: str,
    tar: Path,
    progress: Progress,
) -> None:
    """Run the program in a container of the runtime image and copy its result to `tar`."""
    freeze = f"{paths.IMAGE_PYTHON} -m pip freeze --all | grep -E '^(torch|torchserve)==' > /tmp/constraints.txt"
    program = f"{paths.IMAGE_PYTHON} /tmp/setup_program.py /{folder} {paths.IMAGE_DEPS} {RESULT}"
    settings: dict[str, Any] = {
        "entrypoint": ["/bin/sh", "-c", f"set -eu\nmkdir -p {paths.IMAGE_DEPS}\n{freeze}\nexec {program}"],
        "user": "0",
        "environment": pip_environment() | _pip(dependencies),
        "healthcheck": {"test": ["NONE"]},
    }
    with daemon() as client:
        load(client, runtime, f"torchrelay/runtime:{runtime.config_digest[7:23]}", progress)
        with scratch_container(client, model_dir, "setup", runtime.config_digest, settings) as container:
            if dependencies is not None:
                container.put_archive("/", dependencies.blob.chunks())
            container.put_archive("/", _model(archived, folder))
            container.start()
            code, output = run_to_end(container, TIMEOUT_S, "the handler's setup")
            if code != 0:
                raise DependenciesUnresolved(
                    f"the handler's setup failed in the runtime image: {reason(output)}",
                    "correct the function; it runs as root, without a compiler and without the weights",
                )
            _warn_of_lost_files(container, folder)
            stream, _ = container.get_archive(RESULT)
            with tarfile.open(fileobj=ChunkReader(iter(stream)), mode="r|") as outer, tar.open("wb") as file:
                for member in outer:
                    source = outer.extractfile(member)
                    while source is not None and (chunk := source.read(1 << 20)):
                        file.write(chunk)


def _pip(dependencies: Layer | None) -> dict[str, str]:
    """Return the environment in which pip installs beside the requirements and keeps the image's torch."""
    site = ""
    if dependencies is not None:
        with tarfile.open(fileobj=ChunkReader(dependencies.blob.chunks()), mode="r|") as archive:
            site = next((f"{paths.IMAGE_DEPS}/{match[1]}" for member in archive if (match := SITE.match(member.name))), "")
    pip = {"PIP_PREFIX": paths.IMAGE_DEPS, "PIP_CONSTRAINT": "/tmp/constraints.txt"}  # noqa: S108 -- inside the container
    pip |= {
        "PIP_NO_INPUT": "1",
        "PIP_NO_CACHE_DIR": "1",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_ROOT_USER_ACTION": "ignore",
    }
    return pip | ({"PYTHONPATH": site} if site else {})


def _model(archived: Archived, folder: str) -> Iterator[bytes]:
    """Yield a tar of the program and the unpacked archive without the weights."""
    files = [LayerFile("tmp/setup_program.py", PROGRAM.read_bytes(), PROGRAM.stat().st_size)]
    for name, entry in archived.entries.items():
        if name != archived.weights:
            files.append(LayerFile(f"{folder}/{name}", Slice(archived.path, entry.offset, entry.size), entry.size))
    for part in tar_parts(files):
        yield from [part] if isinstance(part, bytes) else part.chunks()


def _names(tar: Path, folder: str) -> list[str]:
    """Return the names of the files in the tar. Raises DependenciesUnresolved for one outside the two allowed folders."""
    allowed = (f"{folder}/", f"{paths.IMAGE_DEPS.lstrip('/')}/")
    names = []
    with tarfile.open(tar) as archive:
        for member in archive:
            if member.isdir():
                continue
            if not member.name.startswith(allowed) or ".." in member.name.split("/") or not (member.isreg() or member.issym()):
                raise DependenciesUnresolved(
                    f"the handler's setup left {printable(member.name)!r}, which is not a file of the model"
                )
            names.append(member.name)
    return names


def _warn_of_lost_files(container: "Container", folder: str) -> None:
    image_paths = (f"/{folder}", paths.IMAGE_DEPS, *IGNORED_PATHS)
    added = [str(change["Path"]) for change in container.diff() or [] if change["Kind"] == 1]
    lost = [path for path in added if not any(path == root or path.startswith(f"{root}/") for root in image_paths)]
    if lost:
        what = ", ".join(printable(path, 80) for path in lost[:3]) + (f" and {len(lost) - 3} more" if len(lost) > 3 else "")
        log.warning(
            "the handler's setup wrote %s, which is not in the image: only the model's folder and pip's packages are kept", what
        )


def reason(output: str) -> str:
    """Return the program's last error line, otherwise the last three lines of its output."""
    errors = [line.removeprefix("ERROR: ") for line in output.splitlines() if line.startswith("ERROR: ")]
    return printable(errors[-1] if errors else " ".join(output.strip().splitlines()[-3:]), 600)
