"""A separate virtual environment with fastai: built once for a lock file and a torch, kept in the tests' cache.

`python -m tests.integration.fastai.environment` builds it by hand and prints the path of its Python.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from tests.cache import CACHE, build_lock

LOCK = Path(__file__).parents[3] / "requirements" / "fastai.txt"
SHIM = Path(__file__).with_name("torchvision_operators.py")


def torch_version() -> str:
    """Return the version of the tests' own torch, without its build: 2.13.0."""
    return metadata.version("torch").partition("+")[0]


def folder() -> Path:
    """The folder of the environment for this lock file, shim, torch and Python."""
    inputs = hashlib.sha256(LOCK.read_bytes() + SHIM.read_bytes() + torch_version().encode() + sys.version.encode())
    return CACHE / f"fastai-{inputs.hexdigest()[:12]}"


def ensure() -> Path:
    """The environment's Python; building it takes two minutes. The file `complete` marks one whose build was not cut short."""
    home = folder()
    complete = home / "complete"
    with build_lock(home.with_name(f"{home.name}.lock"), "the fastai environment"):
        if not complete.exists():
            shutil.rmtree(home, ignore_errors=True)
            sys.stderr.write("building an environment with fastai (once)\n")
            _build(home)
            complete.touch()
    return home / "bin" / "python"


def _build(home: Path) -> None:
    python = str(home / "bin" / "python")
    pip = [python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    subprocess.run([sys.executable, "-m", "venv", str(home)], check=True, stdout=sys.stderr)
    subprocess.run([*pip, "--no-deps", "--require-hashes", "-r", str(LOCK)], check=True, stdout=sys.stderr)
    wheels = os.environ.get("TORCHRELAY_WHEELS")  # unset: the index's CUDA build, as in the Makefile
    subprocess.run(
        [*pip, *(["--find-links", wheels] if wheels else []), f"torch=={torch_version()}"], check=True, stdout=sys.stderr
    )
    if subprocess.run([python, "-c", "import torchvision"], check=False, capture_output=True).returncode != 0:
        packages = next((home / "lib").glob("python3.*/site-packages"))
        shutil.copy(SHIM, packages)
        (packages / f"{SHIM.stem}.pth").write_text(f"import {SHIM.stem}\n")


if __name__ == "__main__":
    print(ensure())
