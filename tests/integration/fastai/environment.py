"""A separate environment with fastai: made once per lock file and torch version, kept in the tests' cache.

`python -m tests.integration.fastai.environment` makes it by hand and prints its Python.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "torchrelay-tests"
LOCK = Path(__file__).parents[3] / "requirements" / "fastai.txt"
SHIM = Path(__file__).with_name("torchvision_operators.py")


def torch_version() -> str:
    """Return the version of the tests' own torch, without its build: 2.13.0."""
    return metadata.version("torch").partition("+")[0]


def folder() -> Path:
    """Return the environment's folder, named by lock, shim, torch and Python."""
    inputs = hashlib.sha256(LOCK.read_bytes() + SHIM.read_bytes() + torch_version().encode() + sys.version.encode())
    return CACHE / f"fastai-{inputs.hexdigest()[:12]}"


def ensure() -> Path:
    """Return the environment's Python; make it first if it is missing (two minutes) or incomplete. A lock keeps others waiting."""
    home = folder()
    complete = home / "complete"
    home.parent.mkdir(parents=True, exist_ok=True)
    with home.with_name(f"{home.name}.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        if not complete.exists():
            shutil.rmtree(home, ignore_errors=True)
            sys.stderr.write("making an environment with fastai (once)\n")
            _make(home)
            complete.touch()
    return home / "bin" / "python"


def _make(home: Path) -> None:
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
