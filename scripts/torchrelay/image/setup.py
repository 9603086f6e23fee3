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
from typing import TYPE_CHECKING

from torchrelay.core import paths
from torchrelay.core.errors import DependenciesUnresolved
from torchrelay.core.files import ChunkReader, read_json, write_json
from torchrelay.core.log import log
from torchrelay.core.progress import Progress
from torchrelay.core.text import printable
from torchrelay.docker.daemon import daemon, load
from torchrelay.docker.scratch import scratch_container
from torchrelay.image.dependencies import CACHE_KEY_VARS, DEPS, SITE, pip_environment
from torchrelay.image.install_container import (
    MEMORY,
    InstallSettings,
    container_settings,
    file_content,
    out_of_memory,
    result_required,
    run_to_end,
)
from torchrelay.image.mar import Archived
from torchrelay.image.untrusted_layer import FORMAT, Allowed, UntrustedLayer, checked_layer
from torchrelay.oci.blobs import Slice, stored_blob, write_blob
from torchrelay.oci.image import Image
from torchrelay.oci.layers import TAR, TAR_FORMAT, Layer, LayerFile, tar_parts

if TYPE_CHECKING:
    from docker.models.containers import Container

LIBRARY = "torchrelay_handlers/"
CREATED_BY = "torchrelay setup"
NAMES = re.compile(rb"\b(install_packages|unpack_dependencies)\b")
PROGRAM = Path(__file__).with_name("setup_program.py")
RESULT = "/tmp/torchrelay-setup.tar"  # noqa: S108 -- inside the container
# `tar` and `cp -p` restore owners when root runs them, as in most setup functions.
CAPABILITIES = ("CHOWN", "DAC_OVERRIDE", "FOWNER")
PROTECTED = (LIBRARY.rstrip("/"), "torchrelay.json", "torchrelay_service.py", "MAR-INF")  # the files of archive, and the weights
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
        layer = _run(model_dir, runtime, archived, dependencies, folder, Path(scratch) / "setup", progress)
        names = layer.names
        if not names:
            write_json(record, {"digest": None, "folder": None})
            return None
        blob = write_blob(layer.parts())
    site = next((match[1] for name in names if (match := SITE.match(name))), None)
    imports = f"{paths.IMAGE_DEPS}/{site}" if site else None
    write_json(record, {"digest": blob.digest, "folder": imports})
    return imports, Layer(blob, blob.digest, TAR, CREATED_BY)


def allowed(folder: str, weights: str, most_bytes: int) -> Allowed:
    """Return what setup functions are allowed to leave in the image."""
    protected = tuple(f"{folder}/{name}" for name in (*PROTECTED, weights))
    return Allowed("the handler's setup", (folder, DEPS), most_bytes, protected)


def _key(runtime: Image, archived: Archived, dependencies: Layer | None, folder: str) -> str:
    below = dependencies and dependencies.diff_id
    digest = hashlib.sha256(f"{TAR_FORMAT} {FORMAT} {runtime.config_digest} {below} {folder}\n".encode())
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
    spool: Path,
    progress: Progress,
) -> UntrustedLayer:
    """Run the program in a container of the runtime image and return the files that it left."""
    limits = InstallSettings.read()
    freeze = f"{paths.IMAGE_PYTHON} -m pip freeze --all | grep -E '^(torch|torchserve)==' > /tmp/constraints.txt"
    program = f"{paths.IMAGE_PYTHON} /tmp/setup_program.py /{folder} {paths.IMAGE_DEPS} {RESULT}"
    script = f"set -eu\nmkdir -p {paths.IMAGE_DEPS}\n{freeze}\nexec {program}"
    settings = container_settings(limits, script, pip_environment() | _pip(dependencies), CAPABILITIES)
    with daemon() as client:
        load(client, runtime, f"torchrelay/runtime:{runtime.config_digest[7:23]}", progress)
        with scratch_container(client, model_dir, "setup", runtime.config_digest, settings) as container:
            if dependencies is not None:
                container.put_archive("/", dependencies.blob.chunks())
            container.put_archive("/", _model(archived, folder))
            container.start()
            code, output = run_to_end(container, limits.install_timeout_s, "the handler's setup")
            if code != 0 and out_of_memory(container):
                raise DependenciesUnresolved("the handler's setup needs more memory than it is allowed", MEMORY)
            if code != 0:
                raise DependenciesUnresolved(
                    f"the handler's setup failed in the runtime image: {reason(output)}",
                    "correct the function; it runs as root, without a compiler and without the weights",
                )
            _warn_of_lost_files(container, folder)
            with result_required("the handler's setup"):
                return checked_layer(
                    file_content(container, RESULT), allowed(folder, archived.weights, limits.install_layer), spool
                )


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
