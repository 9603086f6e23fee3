"""The dependencies layer: a model's requirements, installed by the runtime image's pip, once per requirements file."""

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
WAIT_S = 60  # for the exit code, after the log has ended
# --prefix, not --target: pip then sees the runtime's packages, so a package that needs torch does not install a second one.
INSTALL = f"""
set -eu
{paths.IMAGE_PYTHON} -m pip freeze --all | grep -E '^(torch|torchserve)==' > /tmp/constraints.txt
{paths.IMAGE_PYTHON} -m pip install --no-input --no-cache-dir --disable-pip-version-check --root-user-action ignore --no-compile \
  --prefix {paths.IMAGE_DEPS} --constraint /tmp/constraints.txt --requirement /tmp/requirements.txt
mkdir -p {paths.IMAGE_DEPS}
{paths.IMAGE_PYTHON} -m compileall -q --invalidation-mode unchecked-hash {paths.IMAGE_DEPS} || true
"""
CACHE_KEY_VARS = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_TRUSTED_HOST")  # the installed packages may depend on them
PASSED_VARS = (*CACHE_KEY_VARS, "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")


def dependencies_layer(model_dir: Path, runtime: Image, requirements: bytes, progress: Progress) -> tuple[str, Layer]:
    """Return the folder to import from inside the image, and the layer that contains it.

    Raises DependenciesUnresolved with pip's reason.
    """
    index = "".join(f"{name}={value}\n" for name, value in pip_environment().items() if name in CACHE_KEY_VARS)
    key_parts = [runtime.config_digest.encode(), INSTALL.encode(), index.encode(), str(TAR_FORMAT).encode(), requirements]
    key = hashlib.sha256(b"\0".join(key_parts)).hexdigest()
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
            "environment": pip_environment(),
            "healthcheck": {"test": ["NONE"]},
        }
        with scratch_container(client, model_dir, "dependencies", runtime.config_digest, settings) as container:
            container.put_archive("/tmp", _single_file("requirements.txt", requirements))  # noqa: S108 -- inside the container
            container.start()
            code, output = run_to_end(container, TIMEOUT_S, "installing the requirements")
            if code != 0:
                raise DependenciesUnresolved(
                    f"requirements do not install in the runtime image: {pip_reason(output)}",
                    "correct the requirements file; the image pins torch and torchserve and has no compiler",
                )
            _copy_out(container, folder)


def run_to_end(container: "Container", timeout_s: float, what: str) -> tuple[int, str]:
    """Return exit code and output of a started container once it has ended; kill it after `timeout_s`.

    The log only ends with the container, so a timer in another thread ends both. Raises DependenciesUnresolved.
    """
    killed = threading.Event()

    def kill() -> None:
        killed.set()
        with suppress(Exception):  # it just ended, or the daemon is gone: reading the log reports that
            container.kill()

    timer = threading.Timer(timeout_s, kill)
    timer.daemon = True
    timer.start()
    try:
        output = follow_log(container)
        code = int(container.wait(timeout=WAIT_S)["StatusCode"])
    finally:
        timer.cancel()
    if killed.is_set() and code != 0:
        raise DependenciesUnresolved(
            f"{what} did not end within {timeout_s:.0f} s and was stopped: {pip_reason(output)}",
            "run it again if the network was slow; otherwise remove packages, or ones that wait for input while installing",
        )
    return code, output


def follow_log(container: "Container") -> str:
    """Return the container's output once it has ended; log pip's downloads as they happen."""
    lines = []
    rest = ""
    for chunk in container.logs(stream=True, follow=True):
        *complete, rest = (rest + chunk.decode(errors="replace")).split("\n")
        for line in complete:
            lines.append(line)
            log.log(logging.INFO if line.lstrip().startswith("Downloading") else logging.DEBUG, "  %s", line.strip()[:150])
    return "\n".join([*lines, rest])


def pip_environment() -> dict[str, str]:
    """Return the variables about indexes and proxies, for pip in a container."""
    return {name: os.environ[name] for name in PASSED_VARS if os.environ.get(name)}


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
