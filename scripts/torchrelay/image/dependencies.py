"""The dependencies layer: a model's requirements, installed by the runtime image's own pip, once per requirements file."""

import hashlib
import io
import logging
import os
import shutil
import tarfile
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from torchrelay.core import paths
from torchrelay.core.errors import DependenciesUnresolved
from torchrelay.core.files import ChunkReader, read_json, write_json
from torchrelay.core.log import log
from torchrelay.core.pip import pip_reason
from torchrelay.core.progress import Progress
from torchrelay.docker.daemon import daemon, load
from torchrelay.docker.scratch import scratch_container
from torchrelay.oci.blobs import stored_blob, write_blob
from torchrelay.oci.image import Image
from torchrelay.oci.layers import TAR, TAR_FORMAT, Layer, folder_layer_parts

if TYPE_CHECKING:
    from docker.models.containers import Container

TIMEOUT_S = 1800
WAIT_S = 60  # for the exit code, when the log has ended
# --prefix, not --target: it counts what the runtime has, so that a package that needs torch does not bring a second one.
INSTALL = f"""
set -eu
{paths.IMAGE_PYTHON} -m pip freeze --all | grep -E '^(torch|torchserve)==' > /tmp/constraints.txt
{paths.IMAGE_PYTHON} -m pip install --no-input --no-cache-dir --disable-pip-version-check --root-user-action ignore --no-compile \
  --prefix {paths.IMAGE_DEPS} --constraint /tmp/constraints.txt --requirement /tmp/requirements.txt
mkdir -p {paths.IMAGE_DEPS}
{paths.IMAGE_PYTHON} -m compileall -q --invalidation-mode unchecked-hash {paths.IMAGE_DEPS} || true
"""
MADE_OF = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_TRUSTED_HOST")  # what is installed may depend on them
PASSED_ON = (*MADE_OF, "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")


def dependencies_layer(model_dir: Path, runtime: Image, requirements: bytes, progress: Progress) -> tuple[str, Layer]:
    """Return the folder to import from inside the image, and the layer that holds it.

    Raises DependenciesUnresolved with pip's own reason.
    """
    index = "".join(f"{name}={value}\n" for name, value in passed_on().items() if name in MADE_OF)
    made_of = [runtime.config_digest.encode(), INSTALL.encode(), index.encode(), str(TAR_FORMAT).encode(), requirements]
    key = hashlib.sha256(b"\0".join(made_of)).hexdigest()
    record = paths.cache_dir() / "layers" / f"dependencies-{key}.json"
    known = read_json(record)
    if isinstance(known, dict) and (blob := stored_blob(known.get("digest", ""))) is not None:
        return str(known["folder"]), Layer(blob, blob.digest, TAR, "torchrelay dependencies")
    log.info("installing the model's requirements (once for this requirements file)")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "deps"
        folder.mkdir()
        _install(model_dir, runtime, requirements, folder, progress)
        site = next((str(path.relative_to(folder)) for path in folder.glob("lib/python3*/site-packages")), ".")
        blob = write_blob(folder_layer_parts(folder, paths.IMAGE_DEPS.lstrip("/")))
    imports = paths.IMAGE_DEPS if site == "." else f"{paths.IMAGE_DEPS}/{site}"
    write_json(record, {"digest": blob.digest, "folder": imports})
    return imports, Layer(blob, blob.digest, TAR, "torchrelay dependencies")


def _install(model_dir: Path, runtime: Image, requirements: bytes, folder: Path, progress: Progress) -> None:
    with daemon() as client:
        load(client, runtime, f"torchrelay/runtime:{runtime.config_digest[7:23]}", progress)
        settings = {
            "entrypoint": ["/bin/sh", "-c", INSTALL],
            "user": "0",
            "environment": passed_on(),
            "healthcheck": {"test": ["NONE"]},
        }
        with scratch_container(client, model_dir, "dependencies", runtime.config_digest, settings) as container:
            container.put_archive("/tmp", _single_file("requirements.txt", requirements))  # noqa: S108 -- inside the container
            container.start()
            code, output = ended(container, TIMEOUT_S, "installing the requirements")
            if code != 0:
                raise DependenciesUnresolved(
                    f"requirements do not install in the runtime image: {pip_reason(output)}",
                    "correct the requirements file; the image pins torch and torchserve, and runs without a compiler",
                )
            _copy_out(container, folder)


def ended(container: "Container", timeout_s: float, what: str) -> tuple[int, str]:
    """Return exit code and output of a container when it has ended; one that takes longer is killed.

    The log ends with the container, so it is a clock beside it that ends both. Raises DependenciesUnresolved.
    """
    late = threading.Event()

    def kill() -> None:
        late.set()
        with suppress(Exception):  # it ended just now, or the daemon is gone, which who follows the log is told
            container.kill()

    clock = threading.Timer(timeout_s, kill)
    clock.daemon = True
    clock.start()
    try:
        output = followed(container)
        code = int(container.wait(timeout=WAIT_S)["StatusCode"])
    finally:
        clock.cancel()
    if late.is_set() and code != 0:
        raise DependenciesUnresolved(
            f"{what} did not end within {timeout_s:.0f} s, and was stopped: {pip_reason(output)}",
            "run it again if the network was slow; else require less, or what waits for nothing",
        )
    return code, output


def followed(container: "Container") -> str:
    """Return pip's output when it has ended, telling its downloads as they come."""
    lines = []
    left = ""
    for chunk in container.logs(stream=True, follow=True):
        *whole, left = (left + chunk.decode(errors="replace")).split("\n")
        for line in whole:
            lines.append(line)
            log.log(logging.INFO if line.lstrip().startswith("Downloading") else logging.DEBUG, "  %s", line.strip()[:150])
    return "\n".join([*lines, left])


def passed_on() -> dict[str, str]:
    """Return what the environment says of indexes and proxies, for pip in a container."""
    return {name: os.environ[name] for name in PASSED_ON if os.environ.get(name)}


def _single_file(name: str, content: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        info = tarfile.TarInfo(name)
        info.size, info.mode = len(content), 0o644
        archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def _copy_out(container: "Container", folder: Path) -> None:
    stream, _ = container.get_archive(paths.IMAGE_DEPS)
    with tarfile.open(fileobj=ChunkReader(iter(stream)), mode="r|") as archive:
        archive.extractall(folder.parent, filter="data")
    unpacked = folder.parent / Path(paths.IMAGE_DEPS).name
    if unpacked != folder:
        shutil.rmtree(folder)
        unpacked.rename(folder)
