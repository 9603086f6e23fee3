"""A disk without space: readiness comes back with the space, draining needs none, and a broken watch ends the container."""

import errno
import io
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from torchrelay_runtime import entrypoint
from torchrelay_runtime.contract import Server
from torchrelay_runtime.entrypoint import make_state, publish, supervise, watch
from torchrelay_runtime.processes import Child, Children
from torchrelay_runtime.readiness import Workers
from torchrelay_runtime.settings import Serving, Settings, SettingsError
from torchrelay_runtime.state import DRAINING, READY, STATUS, Status, read_status, start_draining, write_status

SERVING = Serving(name="digits", version="abc123", model_dir=Path("/m"))
SETTINGS = Settings(SERVING, Path("/state"), 8080, "0.0.0.0", "nginx", "torchserve", None, None, access_log=False, log_level="warn")
UP = Workers(ready=1, total=1)
DOWN = Workers(ready=0, total=1)


class Disk:
    """Refuses contents while `full`, yet makes empty files, removes and renames, as tmpfs and ext4 do."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.full = False
        write = Path.write_text

        def write_text(path: Path, *args: Any, **kwargs: Any) -> int:
            if self.full:
                path.touch()
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return write(path, *args, **kwargs)

        monkeypatch.setattr(Path, "write_text", write_text)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    make_state(tmp_path / "state")
    return tmp_path / "state"


@pytest.fixture
def children(monkeypatch: pytest.MonkeyPatch) -> Children:
    monkeypatch.setattr("torchrelay_runtime.processes.signal.signal", lambda *_: None)
    return Children()


class Script:
    """A server whose workers are, look by look, what `looks` yields; the last look ends the watch."""

    def __init__(self, looks: Iterator[Workers | None], stop: threading.Event) -> None:
        self._looks = looks
        self._stop = stop

    def workers(self, _: Settings) -> Workers | None:
        try:
            return next(self._looks)
        except StopIteration:
            self._stop.set()
            return UP


@pytest.fixture
def run(state: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Iterator[Workers | None]], None]:
    monkeypatch.setattr("torchrelay_runtime.readiness.POLL_READY_S", 0.0)
    monkeypatch.setattr("torchrelay_runtime.readiness.POLL_STARTING_S", 0.0)

    def watched(looks: Iterator[Workers | None]) -> None:
        stop = threading.Event()
        publish(cast("Server", Script(looks, stop)), replace(SETTINGS, state=state), stop)

    return watched


def test_readiness_comes_back_with_the_space_and_the_log_says_so_once(
    state: Path, disk: Disk, run: Callable[[Iterator[Workers | None]], None], capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[tuple[bool, bool]] = []

    def now() -> tuple[bool, bool]:
        return read_status(state).ready, (state / READY).exists()

    def looks() -> Iterator[Workers | None]:
        yield UP
        seen.append(now())
        disk.full = True
        for _ in range(5):
            yield DOWN
            seen.append(now())
        yield UP
        seen.append(now())
        disk.full = False
        yield UP
        seen.append(now())

    run(looks())
    assert seen == [(True, True), *[(False, False)] * 6, (True, True)]
    log = capsys.readouterr().err
    assert log.count("No space left on device") == 1
    assert {path.name for path in state.iterdir() if ".status" in path.name} == set()


def test_a_server_that_is_ready_before_the_disk_has_space_becomes_ready_later(
    state: Path, disk: Disk, run: Callable[[Iterator[Workers | None]], None]
) -> None:
    def looks() -> Iterator[Workers | None]:
        disk.full = True
        yield UP
        yield UP
        assert not (state / READY).exists()
        disk.full = False

    run(looks())
    assert read_status(state) == Status(ready=True, reason="ready")


def test_a_ready_that_could_not_be_overwritten_counts_as_not_ready(state: Path, disk: Disk) -> None:
    write_status(state, Status(ready=True, reason="ready"))
    disk.full = True
    with pytest.raises(OSError, match="No space"):
        write_status(state, Status(ready=False, reason="no worker is ready"))
    assert not read_status(state).ready


@pytest.mark.parametrize("full", [False, True])
def test_a_watch_that_breaks_ends_the_container_with_an_error(state: Path, disk: Disk, children: Children, *, full: bool) -> None:
    class Broken:
        def workers(self, _: Settings) -> Workers | None:
            raise TypeError("a bug")

    stop = threading.Event()
    disk.full = full
    with pytest.raises(TypeError, match="a bug"):
        watch(cast("Server", Broken()), replace(SETTINGS, state=state), stop, children.note_broken)
    assert read_status(state).failed is not full
    codes: list[int] = []
    main = threading.Thread(target=lambda: codes.append(supervise(children, None, None, state, 1.0, stop)), daemon=True)
    main.start()
    main.join(5.0)
    assert codes == [1]
    assert stop.is_set()


def test_a_watch_that_was_asked_to_stop_is_not_broken(state: Path, children: Children) -> None:
    stop = threading.Event()
    watch(cast("Server", Script(iter([UP]), stop)), replace(SETTINGS, state=state), stop, children.note_broken)
    assert not children.broken


def test_draining_needs_no_space(state: Path, disk: Disk) -> None:
    write_status(state, Status(ready=True, reason="ready"))
    disk.full = True
    start_draining(state)
    start_draining(state)
    assert read_status(state) == Status(ready=False, reason="draining")
    assert (state / DRAINING).exists()


def test_draining_never_raises_and_is_not_ready_at_least(tmp_path: Path, disk: Disk) -> None:
    write_status(tmp_path, Status(ready=True, reason="ready"))
    disk.full = True
    start_draining(tmp_path)
    assert not (tmp_path / READY).exists()
    start_draining(tmp_path / "nowhere")


def test_a_term_on_a_full_disk_still_drains(state: Path, disk: Disk, children: Children, monkeypatch: pytest.MonkeyPatch) -> None:
    drained: list[float] = []

    def shut_down(_: Children, __: Child | None, ___: Child | None, drain_s: float) -> None:
        drained.append(drain_s)

    monkeypatch.setattr(entrypoint, "shut_down", shut_down)
    disk.full = True
    children.stops = 1
    assert supervise(children, None, None, state, 25.0, threading.Event()) == 0
    assert drained == [25.0]


def test_a_start_on_a_full_disk_fails_with_a_message_and_the_next_one_works(tmp_path: Path, disk: Disk) -> None:
    disk.full = True
    with pytest.raises(SettingsError, match="No space left on device"):
        make_state(tmp_path / "state")
    disk.full = False
    make_state(tmp_path / "state")
    assert (tmp_path / "state" / STATUS).exists()


def test_a_log_on_a_full_disk_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.StringIO):
        def write(self, _: str) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("sys.stderr", Full())
    entrypoint.log("hello")
