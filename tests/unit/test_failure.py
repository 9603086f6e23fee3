"""error.json: written where a folder is ours, gone when its stage begins anew, and never in the way of the error itself."""

from pathlib import Path

import pytest

from torchrelay.cli import console, main
from torchrelay.core.errors import GateFailed, LoginFailed, ModelInvalid, Problem, WeightsMissing
from torchrelay.stages import error_file


@pytest.fixture(autouse=True)
def no_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RUNNER_TEMP", raising=False)


@pytest.fixture(params=["model.yaml", "release.json"])
def ours(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    (tmp_path / request.param).write_text("{}")
    return tmp_path


def test_what_failed_is_kept(ours: Path) -> None:
    error_file.keep(ours, "fetch", WeightsMissing("gone", "put it back"))
    told = {"stage": "fetch", "kind": "weights_missing", "message": "gone", "fix": "put it back", "problems": []}
    assert error_file.read(ours) == told


def test_problems_are_kept_with_their_places(ours: Path) -> None:
    error_file.keep(ours, "check", ModelInvalid([Problem("model.yaml", 3, "name", "wrong", "mend")]))
    found = error_file.read(ours)
    assert found is not None
    assert found["problems"] == [{"file": "model.yaml", "line": 3, "field": "name", "message": "wrong", "fix": "mend"}]


def test_the_stage_within_a_longer_run_is_named(ours: Path) -> None:
    error = GateFailed("no")
    error.stage = "verify"
    error_file.keep(ours, "relay", error)
    found = error_file.read(ours)
    assert found is not None
    assert found["stage"] == "verify"


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
def test_a_stage_that_begins_anew_forgets_it(failed: str, begins: str, gone: bool, ours: Path) -> None:
    error_file.keep(ours, failed, GateFailed("no"))
    error_file.clear(ours, begins)
    assert (error_file.read(ours) is None) is gone


def test_a_folder_that_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    error_file.keep(tmp_path, "check", GateFailed("no"))
    error_file.keep(None, "check", GateFailed("no"))
    error_file.clear(None, "check")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b"])
def test_a_name_that_no_folder_can_have_does_not_hide_the_error(name: str) -> None:
    error_file.keep(Path(name), "check", GateFailed("no"))
    error_file.clear(Path(name), "check")


def test_a_verb_that_only_asks_leaves_nothing(ours: Path) -> None:
    before = set(ours.iterdir())
    error_file.keep(ours, "status", GateFailed("no"))
    assert set(ours.iterdir()) == before


def test_what_cannot_be_written_does_not_hide_the_error(ours: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (ours / ".torchrelay").write_text("a file where the folder should be")

    def application(*_: object, **__: object) -> None:
        console.Output.folder, console.Output.stage = ours, "verify"
        raise GateFailed("the real reason")

    assert main.run([], application) == GateFailed.exit_code
    assert "the real reason" in capsys.readouterr().err


def test_a_damaged_file_says_nothing(ours: Path) -> None:
    (ours / ".torchrelay").mkdir()
    for text in ("", "[]", "{", "null"):
        (ours / ".torchrelay" / "error.json").write_text(text)
        assert error_file.read(ours) is None
        error_file.clear(ours, "check")


def test_a_verb_without_a_folder_leaves_it_where_the_job_keeps_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNNER_TEMP", str(tmp_path))
    error_file.keep(None, "login", LoginFailed("no role"))
    found = error_file.read(None)
    assert found is not None
    assert found["message"] == "no role"
    error_file.clear(None, "push")
    assert error_file.there(None)
    error_file.clear(None, "login")
    assert not error_file.there(None)
