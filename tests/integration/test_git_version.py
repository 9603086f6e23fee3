"""The version out of real git repositories."""

import subprocess
from pathlib import Path

import pytest

from torchrelay.core.errors import ModelInvalid
from torchrelay.model.model import Model
from torchrelay.model.version import resolved_version

MODEL = Model.model_validate({"name": "digits", "weights": "model.pt", "handler": "tensor"})


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    return subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with the model committed in a subfolder."""
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    folder = tmp_path / "repository"
    (folder / "model").mkdir(parents=True)
    (folder / "model/model.yaml").write_text("name: digits\n")
    (folder / "other.txt").write_text("x")
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "first")
    return folder


def test_commit(repository: Path) -> None:
    assert resolved_version(MODEL, repository / "model") == git(repository, "rev-parse", "HEAD")[:12]


def test_changes_of_the_model_make_it_dirty(repository: Path) -> None:
    commit = git(repository, "rev-parse", "HEAD")[:12]
    (repository / "other.txt").write_text("y")
    (repository / "model/.torchrelay").mkdir()
    (repository / "model/.torchrelay/state.json").write_text("{}")
    assert resolved_version(MODEL, repository / "model") == commit
    (repository / "model/new.py").write_text("")
    assert resolved_version(MODEL, repository / "model") == f"{commit}-dirty"
    (repository / "model/new.py").unlink()
    (repository / "model/model.yaml").write_text("name: other\n")
    assert resolved_version(MODEL, repository / "model") == f"{commit}-dirty"


def test_declared_version_wins(repository: Path) -> None:
    assert resolved_version(MODEL.model_copy(update={"version": "7"}), repository / "model") == "7"


def test_outside_of_git_and_before_the_first_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    (tmp_path / "model").mkdir()
    assert resolved_version(MODEL, tmp_path / "model") == "1.0"
    git(tmp_path, "init", "-q")
    assert resolved_version(MODEL, tmp_path / "model") == "1.0"


def test_without_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert resolved_version(MODEL, tmp_path) == "1.0"


def test_a_repository_that_git_refuses_is_an_error(repository: Path) -> None:
    def refused(arguments: list[str], _: Path) -> "subprocess.CompletedProcess[str]":
        return subprocess.CompletedProcess(arguments, 128, "", "fatal: detected dubious ownership in repository at '/x'")

    with pytest.raises(ModelInvalid, match=r"version: .* safe\.directory"):
        resolved_version(MODEL, repository / "model", refused)
