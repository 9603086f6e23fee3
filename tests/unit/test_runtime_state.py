"""The state folder: what is published, and whose files are removed."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from torchrelay_runtime.entrypoint import make_state
from torchrelay_runtime.front import prepare
from torchrelay_runtime.nginx import Front
from torchrelay_runtime.settings import SettingsError
from torchrelay_runtime.state import DRAINING, READY, RESERVE, STATUS, Status, read_status, start_draining, write_status


def test_the_last_status_is_read_and_draining_wins(tmp_path: Path) -> None:
    assert not read_status(tmp_path).ready
    write_status(tmp_path, Status(ready=True, reason="ready"))
    assert (read_status(tmp_path), (tmp_path / READY).exists()) == (Status(ready=True, reason="ready"), True)
    start_draining(tmp_path)
    write_status(tmp_path, Status(ready=True, reason="ready"))
    assert read_status(tmp_path) == Status(ready=False, reason="draining")
    (tmp_path / DRAINING).unlink()
    write_status(tmp_path, Status(ready=False, reason="no worker", failed=True))
    assert (read_status(tmp_path).failed, (tmp_path / READY).exists()) == (True, False)


def test_nothing_is_left_half_written(tmp_path: Path) -> None:
    write_status(tmp_path, Status(ready=True, reason="ready"))
    assert {path.name for path in tmp_path.iterdir()} == {"ready", "status.json"}


def test_files_of_an_earlier_start_are_removed(tmp_path: Path) -> None:
    state = tmp_path / "state"
    make_state(state)
    (state / "torchserve" / "tmp").mkdir(parents=True)
    (state / "link").symlink_to(tmp_path, target_is_directory=True)
    write_status(state, Status(ready=True, reason="ready"))
    start_draining(state)
    make_state(state)
    assert {path.name for path in state.iterdir()} == {STATUS, RESERVE}
    assert not read_status(state).ready
    assert state.stat().st_mode & 0o777 == 0o700


def test_a_folder_of_someone_elses_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(SettingsError, match=r"other files, such as thesis\.tex"):
        make_state(tmp_path)
    assert (tmp_path / "thesis.tex").exists()


def test_a_folder_that_cannot_be_made_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match="give the container a writable /tmp"):
        make_state(tmp_path / "file" / "state")


def test_a_path_that_would_be_read_as_configuration_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="letters, digits"):
        prepare(Front(tmp_path / "a; include x", "127.0.0.1", 1, "h:1", 1, 1))


class KilledError(BaseException):
    """What nothing catches, as a SIGKILL."""


@pytest.mark.parametrize("removals", range(5))
def test_a_start_killed_while_emptying_does_not_lock_the_next_one_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, removals: int
) -> None:
    make_state(tmp_path)
    (tmp_path / "torchserve").mkdir()
    (tmp_path / "nginx").mkdir()
    (tmp_path / "nginx.conf").touch()
    write_status(tmp_path, Status(ready=True, reason="ready"))
    left = removals

    def limited(remove: Any) -> Any:
        def removing(path: Path, *rest: Any, **named: Any) -> Any:
            nonlocal left
            if left == 0:
                raise KilledError
            left -= 1
            return remove(path, *rest, **named)

        return removing

    listed = Path.iterdir

    def marker_first(path: Path) -> Iterator[Path]:
        return iter(sorted(listed(path), key=lambda one: one.name != STATUS))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "iterdir", marker_first)
        patch.setattr(Path, "unlink", limited(Path.unlink))
        patch.setattr(shutil, "rmtree", limited(shutil.rmtree))
        with pytest.raises(KilledError):
            make_state(tmp_path)
    make_state(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {STATUS, RESERVE}


def test_a_half_written_status_of_the_runtime_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".status.json.1").touch()
    make_state(tmp_path)
    assert not (tmp_path / ".status.json.1").exists()


@pytest.mark.parametrize("name", [".status.json.swp", ".libthesis.so.1"])
def test_files_that_only_look_like_the_runtimes_are_left_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(SettingsError, match="other files"):
        make_state(tmp_path)
