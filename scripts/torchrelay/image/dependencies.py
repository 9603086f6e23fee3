"""The dependencies layer: a model's requirements, installed by the runtime image's pip, once per requirements file."""

import hashlib
import io
import os
import re
import tarfile
import tempfile
from pathlib import Path

from torchrelay.core import paths
from torchrelay.core.errors import DependenciesUnresolved
from torchrelay.core.files import read_json, write_json
from torchrelay.core.log import log
from torchrelay.core.pip import pip_reason
from torchrelay.core.progress import Progress
from torchrelay.docker.daemon import daemon, load
from torchrelay.docker.scratch import scratch_container
from torchrelay.image.install_container import (
    MEMORY,
    InstallSettings,
    container_settings,
    out_of_memory,
    result_required,
    run_to_end,
)
from torchrelay.image.untrusted_layer import FORMAT, Allowed, UntrustedLayer, checked_layer
from torchrelay.oci.blobs import stored_blob, write_blob
from torchrelay.oci.image import Image
from torchrelay.oci.layers import TAR, TAR_FORMAT, Layer

DEPS = paths.IMAGE_DEPS.lstrip("/")
SITE = re.compile(re.escape(DEPS) + r"/(lib/python3[^/]*/site-packages)/")
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
    key_parts = [runtime.config_digest.encode(), INSTALL.encode(), index.encode(), f"{TAR_FORMAT} {FORMAT}".encode(), requirements]
    key = hashlib.sha256(b"\0".join(key_parts)).hexdigest()
    record = paths.cache_dir() / "layers" / f"dependencies-{key}.json"
    known = read_json(record)
    if isinstance(known, dict) and (blob := stored_blob(known.get("digest", ""))) is not None:
        return str(known["folder"]), Layer(blob, blob.digest, TAR, "torchrelay dependencies")
    log.info("installing the model's requirements (once for this requirements file)")
    with tempfile.TemporaryDirectory() as scratch:
        layer = _install(model_dir, runtime, requirements, Path(scratch) / "deps", progress)
        blob = write_blob(layer.parts())
    site = next((match[1] for name in layer.names if (match := SITE.match(name))), None)
    imports = f"{paths.IMAGE_DEPS}/{site}" if site else paths.IMAGE_DEPS
    write_json(record, {"digest": blob.digest, "folder": imports})
    return imports, Layer(blob, blob.digest, TAR, "torchrelay dependencies")


def _install(model_dir: Path, runtime: Image, requirements: bytes, spool: Path, progress: Progress) -> UntrustedLayer:
    limits = InstallSettings.read()
    with daemon() as client:
        load(client, runtime, f"torchrelay/runtime:{runtime.config_digest[7:23]}", progress)
        settings = container_settings(limits, INSTALL, pip_environment())
        with scratch_container(client, model_dir, "dependencies", runtime.config_digest, settings) as container:
            container.put_archive("/tmp", _single_file("requirements.txt", requirements))  # noqa: S108 -- inside the container
            container.start()
            code, output = run_to_end(container, limits.install_timeout_s, "installing the requirements")
            if code != 0 and out_of_memory(container):
                raise DependenciesUnresolved("installing the requirements needs more memory than it is allowed", MEMORY)
            if code != 0:
                raise DependenciesUnresolved(
                    f"requirements do not install in the runtime image: {pip_reason(output)}",
                    "correct the requirements file; the image pins torch and torchserve and has no compiler",
                )
            with result_required("installing the requirements"):
                stream, _ = container.get_archive(paths.IMAGE_DEPS)
            allowed = Allowed("installing the requirements", (DEPS,), limits.install_layer)
            return checked_layer(iter(stream), allowed, spool, DEPS.rpartition("/")[0] + "/")


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
