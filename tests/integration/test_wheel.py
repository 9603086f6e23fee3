"""The command without a checkout: sdist, wheel, an empty environment with the locked requirements, and a model served there."""

import json
import os
import shutil
import socket
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import references
from torchrelay.core import paths

CACHE = paths.cache_dir()  # read before the tests get a separate cache: the server environment is 1 GB
BUILD_SDIST = "import sys; from setuptools import build_meta; print(build_meta.build_sdist(sys.argv[1]))"
MISSING = """
from pathlib import Path
from torchrelay.core import paths
assert Path(paths.__file__).is_relative_to(paths.ROOT.parent), paths.ROOT
print([name for name, path in vars(paths).items() if name.isupper() and isinstance(path, Path) and not path.exists()])
"""
LIMIT_S = 600


def run(argv: list[str | Path], folder: Path, **more: str) -> str:
    """Run a program outside of the checkout, without its modules on the path."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        argv, cwd=folder, env={**environment, **more}, capture_output=True, text=True, check=False, timeout=LIMIT_S
    )
    assert done.returncode == 0, f"{argv}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the sdist, which is built from a copy of the checkout."""
    folder = tmp_path_factory.mktemp("build")
    checkout = folder / "checkout"
    for name in references.listed(paths.ROOT):
        if (paths.ROOT / name).is_file():
            (checkout / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(paths.ROOT / name, checkout / name)
    run([sys.executable, "-c", BUILD_SDIST, folder], checkout)
    (sdist,) = folder.glob("*.tar.gz")
    flags = ["--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(folder)]
    run([sys.executable, "-m", "pip", "wheel", *flags, sdist], folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` folder of an environment that holds the wheel and the locked requirements, and nothing else."""
    folder = tmp_path_factory.mktemp("installed")
    run([sys.executable, "-m", "venv", folder / "venv"], folder)
    programs = folder / "venv" / "bin"
    pip: list[str | Path] = [programs / "python", "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    run([*pip, "--require-hashes", "--requirement", paths.ROOT / "requirements" / "package.txt"], folder)
    run([*pip, "--no-deps", "--no-index", wheel], folder)
    run([programs / "python", "-m", "pip", "check"], folder)
    return programs


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    """A copy of the example that serves on a free port."""
    ignored = shutil.ignore_patterns(".torchrelay", "weights.lock", "__pycache__")
    folder = shutil.copytree(paths.ROOT / "examples" / "digits", tmp_path / "digits", ignore=ignored)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    model = folder / "model.yaml"
    text = model.read_text()
    assert "local: {port: 8080}" in text
    model.write_text(text.replace("local: {port: 8080}", f"local: {{port: {port}}}"))
    return folder


def test_the_wheel_holds_whole_folders(wheel: Path) -> None:
    packed = {name.partition("torchrelay/assets/")[2] for name in zipfile.ZipFile(wheel).namelist()}
    folders = ("handlers/torchrelay_handlers/", "runtime/", "k8s/base/", "schema/")
    expected = {name for name in references.listed(paths.ROOT) if name.startswith(folders) and (paths.ROOT / name).is_file()}
    assert expected <= packed
    assert not [name for name in packed if "__pycache__" in name]


def test_every_path_of_the_command_exists_where_it_is_installed(installed: Path, tmp_path: Path) -> None:
    assert run([installed / "python", "-c", MISSING], tmp_path).strip() == "[]"


def test_archive_writes_the_same_bytes_as_in_a_checkout(installed: Path, digits: Path, tmp_path: Path) -> None:
    run([installed / "torchrelay", "archive", digits], tmp_path)
    archive = digits / ".torchrelay" / "digits.mar"
    first = archive.read_bytes()
    shutil.rmtree(digits / ".torchrelay")
    run([sys.executable, "-m", "torchrelay", "archive", digits], tmp_path, PYTHONPATH=str(paths.ROOT / "scripts"))
    assert archive.read_bytes() == first


def test_relay_serves_the_model_on_the_local_target(installed: Path, digits: Path, tmp_path: Path) -> None:
    wheels = os.environ.get("TORCHRELAY_WHEELS") or paths.ROOT.parent / "shared" / "wheels"
    environment = {"TORCHRELAY_CACHE": str(CACHE)} | ({"TORCHRELAY_WHEELS": str(wheels)} if Path(wheels).is_dir() else {})
    command = installed / "torchrelay"
    run([command, "relay", digits, "--target", "local"], tmp_path, **environment)
    try:
        answer = json.loads(run([command, "invoke", digits, "--target", "local"], tmp_path, **environment))
        assert set(answer) == {"class", "confidence"}
    finally:
        run([command, "delete", digits, "--target", "local"], tmp_path, **environment)


def test_init_writes_a_model_that_passes_check(installed: Path, tmp_path: Path) -> None:
    run([installed / "torchrelay", "init", "new-model"], tmp_path)
    run([installed / "torchrelay", "check", "new-model"], tmp_path)
