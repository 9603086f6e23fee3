"""The peers' environment: requirements/serving.txt by hash and torch as the image has it, made once in the cache folder."""

import hashlib
import json
import logging
import shutil
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

from benchmarks.serving_peers.contract import ROOT
from tests.cache import CACHE
from torchrelay.core.progress import Progress
from torchrelay.targets.local.environment import ServerSettings, pip_install

log = logging.getLogger(__name__)
LOCK = ROOT / "requirements" / "serving.txt"
COMPLETE = "complete"


def folder_of(settings: ServerSettings) -> Path:
    """Return where the environment of this lock and this torch lies."""
    wheels = sorted(wheel.name for wheel in settings.wheels.glob("torch-*.whl")) if settings.wheels else []
    described = json.dumps([settings.torch_version, wheels, settings.index, sys.version])
    return CACHE / f"serving-{hashlib.sha256(LOCK.read_bytes() + described.encode()).hexdigest()[:16]}"


def ensure_environment(progress: Progress) -> Path:
    """Return the environment's Python, made now when it is not there. Raises: DependenciesUnresolved."""
    settings = ServerSettings.from_environment()
    folder = folder_of(settings)
    python = folder / "bin" / "python"
    if (folder / COMPLETE).exists():
        return python
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    pip_install(python, ["--require-hashes", "--requirement", str(LOCK)], progress, "installing the other servers")
    torch = [f"torch=={settings.torch_version}"]
    torch += ["--find-links", str(settings.wheels)] if settings.wheels else []
    pip_install(python, torch, progress, f"installing torch {settings.torch_version}", settings.index)
    (folder / COMPLETE).touch()
    return python


def versions(python: Path) -> dict[str, str]:
    """Return the versions of an environment's packages by lower-case name."""
    sites = [str(site) for site in (python.parent.parent / "lib").glob("python3*/site-packages")]
    return {one.metadata["Name"].lower(): one.version for one in distributions(path=sites)}
