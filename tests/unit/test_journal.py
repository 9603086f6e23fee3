"""The journal's rows are in the relay's order; rows of real work stay, and outdated rows are removed."""

from pathlib import Path

import pytest

from torchrelay.core.workspace import Workspace
from torchrelay.stages import journal
from torchrelay.stages.journal import Row, merged

FETCH: Row = {"stage": "fetch", "seconds": 9.0, "sha256": "aa", "skipped": False}
BUILD: Row = {"stage": "build", "seconds": 5.0, "digest": "sha256:1", "skipped": False}
DEPLOY: Row = {"stage": "deploy", "seconds": 7.0, "digest": "sha256:1", "target": "docker", "skipped": False}


def test_rows_stand_in_the_order_of_the_relay() -> None:
    assert merged(merged([DEPLOY], FETCH), BUILD) == [FETCH, BUILD, DEPLOY]


def test_a_skipped_run_keeps_the_row_of_the_work() -> None:
    assert merged([FETCH, BUILD], {**FETCH, "seconds": 0.1, "skipped": True}) == [FETCH, BUILD]


def test_a_skipped_run_with_another_result_is_reported() -> None:
    cached = {**FETCH, "sha256": "bb", "seconds": 0.1, "skipped": True}
    assert merged([FETCH, BUILD], cached) == [cached]


def test_another_result_removes_the_later_rows() -> None:
    other = {**BUILD, "digest": "sha256:2"}
    assert merged([FETCH, BUILD, DEPLOY], other) == [FETCH, other]


def test_the_same_result_keeps_the_later_rows() -> None:
    assert merged([FETCH, BUILD, DEPLOY], {**BUILD, "seconds": 6.0}) == [FETCH, {**BUILD, "seconds": 6.0}, DEPLOY]


def test_rows_are_kept_beside_the_model(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    assert journal.read(workspace) == []
    journal.record(workspace, BUILD)
    journal.record(workspace, FETCH)
    assert journal.read(workspace) == [FETCH, BUILD]


@pytest.mark.parametrize("text", ["", "{", "3", '[1, {"stage": "no-such"}, {"stage": ["fetch"]}]'])
def test_damaged_rows_are_none(tmp_path: Path, text: str) -> None:
    Workspace(tmp_path).ensure()
    Workspace(tmp_path).stages.write_text(text)
    assert journal.read(Workspace(tmp_path)) == []


def test_a_folder_that_cannot_be_written_to_fails_nothing(tmp_path: Path) -> None:
    journal.record(Workspace(tmp_path / "gone"), FETCH)
    (tmp_path / ".torchrelay").write_text("a file where the folder belongs")
    journal.record(Workspace(tmp_path), FETCH)
