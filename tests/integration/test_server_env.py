"""A model's requirements are installed beside the shared server environment, which is not changed."""

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.wheels import wheel
from torchrelay.core.errors import DependenciesUnresolved
from torchrelay.core.progress import Quiet
from torchrelay.targets.local import environment


class Shared:
    """An environment shared by two models, and a folder as package index."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.index = folder / "index"
        self.index.mkdir()
        wheel(self.index, "shape", "1.0")
        wheel(self.index, "shape", "2.0")
        wheel(self.index, "torch", "1.0")
        wheel(self.index, "torch", "2.0")
        wheel(self.index, "colour", "1.0", "shape>=2")
        subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
        self.python = folder / "venv" / "bin" / "python"
        self.pip("install", "--no-index", "--find-links", str(self.index), "shape==1.0", "torch==1.0")
        self.before = self.pip("list", "--format", "freeze")

    def pip(self, *arguments: str) -> str:
        argv = [str(self.python), "-m", "pip", "--disable-pip-version-check", *arguments]
        return subprocess.run(argv, capture_output=True, text=True, check=True).stdout

    def install(self, *lines: str) -> Path | None:
        shutil.rmtree(self.folder / "deps", ignore_errors=True)
        requirements = self.folder / "requirements.txt"
        requirements.write_text("\n".join([f"--find-links {self.index}", *lines, ""]))
        return environment.install_beside(self.python, requirements, self.folder / "deps", Quiet())

    def sees(self, name: str, path: Path | None) -> str:
        """The version of a module that a model with this folder on its path imports."""
        env = {"PYTHONPATH": str(path)} if path else {}
        done = subprocess.run(
            [str(self.python), "-c", f"import {name}; print({name}.VERSION)"], capture_output=True, text=True, check=True, env=env
        )
        return done.stdout.strip()


@pytest.fixture(scope="module")
def built_once(tmp_path_factory: pytest.TempPathFactory) -> Shared:
    return Shared(tmp_path_factory.mktemp("shared"))


@pytest.fixture
def shared(built_once: Shared, monkeypatch: pytest.MonkeyPatch) -> Shared:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    return built_once


def test_another_version_is_installed_beside_the_shared_one(shared: Shared) -> None:
    site = shared.install("shape==2.0")
    assert (shared.sees("shape", site), shared.sees("shape", None)) == ("2.0", "1.0")
    assert shared.pip("list", "--format", "freeze") == shared.before


def test_only_missing_or_outdated_dependencies_are_installed(shared: Shared) -> None:
    site = shared.install("colour", "torch")
    assert site is not None
    assert (shared.sees("colour", site), shared.sees("shape", site)) == ("1.0", "2.0")
    assert {path.name for path in site.glob("*.py")} == {"colour.py", "shape.py"}
    assert shared.pip("list", "--format", "freeze") == shared.before


def test_installed_packages_are_not_installed_again(shared: Shared) -> None:
    assert shared.install("shape", "torch>=1") is None


def test_torch_is_pinned(shared: Shared) -> None:
    with pytest.raises(DependenciesUnresolved, match=r"Cannot install torch==2\.0"):
        shared.install("torch==2.0")
    assert shared.pip("list", "--format", "freeze") == shared.before


def test_hashes_and_options_reach_the_second_step(shared: Shared) -> None:
    built = wheel(shared.index, "shape", "2.0")
    digest = hashlib.sha256(built.read_bytes()).hexdigest()
    assert shared.sees("shape", shared.install(f"shape==2.0 \\\n    --hash=sha256:{digest}")) == "2.0"


def test_an_address_is_installed_from(shared: Shared) -> None:
    assert shared.sees("shape", shared.install(f"shape @ {(shared.index / 'shape-2.0-py3-none-any.whl').as_uri()}")) == "2.0"


def test_a_wrong_hash_is_refused(shared: Shared) -> None:
    with pytest.raises(DependenciesUnresolved, match=r"HASHES"):
        shared.install(f"shape==2.0 --hash=sha256:{'0' * 64}")
    assert shared.pip("list", "--format", "freeze") == shared.before
