"""error.json is written only in a model or bundle folder, cleared when its stage starts again, and never hides the error."""

from pathlib import Path

import pytest

from torchrelay.cli import console, main
from torchrelay.core.errors import GateFailed, LoginFailed, ModelInvalid, Problem, WeightsMissing
from torchrelay.stages import error_file


@pytest.fixture(autouse=True)
def no_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RUNNER_TEMP", raising=False)


@pytest.fixture(params=["model.yaml", "release.json"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    (tmp_path / request.param).write_text("{}")
    return tmp_path


def test_an_error_is_written(folder: Path) -> None:
    error_file.keep(folder, "fetch", WeightsMissing("gone", "put it back"))
    expected = {"stage": "fetch", "kind": "weights_missing", "message": "gone", "fix": "put it back", "problems": []}
    assert error_file.read(folder) == expected


def test_problems_are_written_with_file_and_line(folder: Path) -> None:
    error_file.keep(folder, "check", ModelInvalid([Problem("model.yaml", 3, "name", "wrong", "repair")]))
    record = error_file.read(folder)
    assert record is not None
    assert record["problems"] == [{"file": "model.yaml", "line": 3, "field": "name", "message": "wrong", "fix": "repair"}]


def test_the_stage_within_a_longer_run_is_named(folder: Path) -> None:
    error = GateFailed("no")
    error.stage = "verify"
    error_file.keep(folder, "relay", error)
    record = error_file.read(folder)
    assert record is not None
    assert record["stage"] == "verify"


@pytest.mark.parametrize(
    ("failed", "begins", "gone"),
    [
        ("build", "build", True),
        ("build", "verify", True),
        ("verify", "relay", True),
        ("push", "push", True),
        ("verify", "diff", False),
        ("verify", "summary", False),
        ("verify", "status", False),
        ("doctor", "check", True),
        ("push", "deploy", False),
    ],
)
def test_a_stage_clears_the_error_when_it_starts_again(failed: str, begins: str, gone: bool, folder: Path) -> None:
    error_file.keep(folder, failed, GateFailed("no"))
    error_file.clear(folder, begins)
    assert (error_file.read(folder) is None) is gone


def test_another_folder_is_left_unchanged(tmp_path: Path) -> None:
    error_file.keep(tmp_path, "check", GateFailed("no"))
    error_file.keep(None, "check", GateFailed("no"))
    error_file.clear(None, "check")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b"])
def test_a_name_that_no_folder_can_have_does_not_hide_the_error(name: str) -> None:
    error_file.keep(Path(name), "check", GateFailed("no"))
    error_file.clear(Path(name), "check")


def test_a_verb_that_only_reads_writes_nothing(folder: Path) -> None:
    before = set(folder.iterdir())
    error_file.keep(folder, "status", GateFailed("no"))
    assert set(folder.iterdir()) == before


def test_a_failed_write_does_not_hide_the_error(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / ".torchrelay").write_text("a file where the folder should be")

    def application(*_: object, **__: object) -> None:
        invocation = console.INVOCATION.get()
        invocation.folder, invocation.verb = folder, "verify"
        raise GateFailed("the real reason")

    assert main.run([], application) == GateFailed.exit_code
    assert "the real reason" in capsys.readouterr().err


def test_a_damaged_file_is_ignored(folder: Path) -> None:
    (folder / ".torchrelay").mkdir()
    for text in ("", "[]", "{", "null"):
        (folder / ".torchrelay" / "error.json").write_text(text)
        assert error_file.read(folder) is None
        error_file.clear(folder, "check")


def test_a_verb_without_a_folder_leaves_it_where_the_job_keeps_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNNER_TEMP", str(tmp_path))
    error_file.keep(None, "login", LoginFailed("no role"))
    record = error_file.read(None)
    assert record is not None
    assert record["message"] == "no role"
    error_file.clear(None, "push")
    assert error_file.there(None)
    error_file.clear(None, "login")
    assert not error_file.there(None)
