"""install_packages and unpack_dependencies: in order, in the model's folder, once; at start only by the switch."""

import json
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.handlers.support import JSON, FakeContext, as_torchserve
from torchrelay_handlers import handler_factory, resolve
from torchrelay_handlers.adapters.torchserve import Service
from torchrelay_handlers.model_files import import_file
from torchrelay_handlers.sample_handler import SampleHandler
from torchrelay_handlers.setup_functions import MARKER, SWITCH, remind, set_up, wanted_at_start

HANDLER = """
from pathlib import Path
from torch import nn
from torchrelay_handlers import handler_factory

def install_packages(name="made.py"):
    Path(name).write_text("SAID = 'installed'\\n")

def unpack_dependencies():
    import made
    Path("order.txt").write_text(made.SAID + ", unpacked")

def init_function():
    assert Path(__file__).with_name("order.txt").is_file(), "nothing is unpacked"
    return nn.Flatten(0)

handler = handler_factory(init_function, None, None, install_packages, unpack_dependencies)
"""


@pytest.fixture(autouse=True)
def as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv(SWITCH, raising=False)
    modules, path, here = set(sys.modules), list(sys.path), Path.cwd()
    yield
    assert Path.cwd() == here
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def leaves(name: str, calls: list[str]) -> Callable[[], object]:
    return lambda: calls.append(f"{name} in {Path.cwd().name}")


def test_they_run_in_order_in_the_models_folder_and_once(tmp_path: Path) -> None:
    calls: list[str] = []
    folder = tmp_path / "model"
    folder.mkdir()
    for _ in range(2):
        set_up(leaves("install", calls), leaves("unpack", calls), folder)
    assert calls == ["install in model", "unpack in model"]
    assert (folder / MARKER).is_file()


def test_workers_that_start_together_run_them_once(tmp_path: Path) -> None:
    calls: list[str] = []
    workers = [threading.Thread(target=set_up, args=(leaves("install", calls), None, tmp_path)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(calls) == 1


def test_a_handler_without_them_leaves_no_trace(tmp_path: Path) -> None:
    set_up(None, None, tmp_path)
    assert list(tmp_path.iterdir()) == []


def raises() -> None:
    raise OSError("no route to host")


def exits() -> None:
    sys.exit("no")


def asks_the_shell() -> None:
    os.system("wget https://somewhere/x")  # noqa: S605 -- never run: see below
    os.system("true")  # noqa: S605 -- as model authors write it


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (raises, "unpack_dependencies failed: OSError: no route to host"),
        (exits, "unpack_dependencies failed: SystemExit: no"),
        (asks_the_shell, r"unpack_dependencies failed: 'wget https://somewhere/x' ended with 8 \(write `\|\| true`"),
    ],
)
def test_a_failure_is_reported_and_nothing_counts_as_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: Callable[[], None], message: str
) -> None:
    monkeypatch.setattr(os, "system", lambda command: 0 if command == "true" else 8 << 8)  # in a shell's place
    shell = os.system
    with pytest.raises(RuntimeError, match=message):
        set_up(None, function, tmp_path)
    assert os.system is shell
    assert not (tmp_path / MARKER).exists()


@pytest.mark.parametrize(
    ("switch", "by_archive", "wanted"), [("", True, True), ("", False, False), ("1", False, True), ("False", True, False)]
)
def test_the_environment_switch_wins(monkeypatch: pytest.MonkeyPatch, switch: str, by_archive: bool, wanted: bool) -> None:
    monkeypatch.setenv(SWITCH, switch)
    assert wanted_at_start(by_archive) is wanted
    monkeypatch.setenv(SWITCH, "perhaps")
    with pytest.raises(ValueError, match="neither true nor false"):
        wanted_at_start(by_archive)


def model_folder(folder: Path, **settings: Any) -> FakeContext:
    (folder / "handler.py").write_text(HANDLER)
    (folder / "torchrelay.json").write_text(json.dumps({"handler": "handler.py", "weights": None, **settings}))
    return FakeContext(str(folder), [JSON])


def test_at_start_nothing_is_run_and_the_log_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "torchrelay"), pytest.raises(AssertionError, match="nothing is unpacked"):
        Service().initialize(model_folder(tmp_path))
    assert f"set {SWITCH}=true to run them here" in caplog.text
    assert not (tmp_path / "made.py").exists()


@pytest.mark.parametrize("by", ["the environment", "the archive"])
def test_with_the_switch_they_run_at_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: str) -> None:
    if by == "the environment":
        monkeypatch.setenv(SWITCH, "true")
    context = model_folder(tmp_path, setup_at_start=by == "the archive")
    service = Service()
    service(None, context)
    assert (tmp_path / "order.txt").read_text() == "installed, unpacked"
    assert service(as_torchserve([b"[1, 2]"], JSON), context) == [b"[1,2]"]


def test_setup_done_in_an_image_is_not_repeated(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    context = model_folder(tmp_path)
    (tmp_path / MARKER).write_text("")
    (tmp_path / "order.txt").write_text("by the build")
    Service()(None, context)
    assert "to run them here" not in caplog.text
    assert not (tmp_path / "made.py").exists()


def test_they_take_keyword_arguments_and_other_styles_have_them_too(tmp_path: Path) -> None:
    calls: list[object] = []

    def keep(**kwargs: str) -> None:
        calls.append(kwargs)

    handler = handler_factory(
        install_packages=keep, unpack_dependencies=keep, install_kwargs={"of": "git"}, unpack_kwargs={"from": "wget"}
    )
    set_up(handler.install_packages, handler.unpack_dependencies, tmp_path)
    assert calls == [{"of": "git"}, {"from": "wget"}]

    class Mine(SampleHandler):
        def install_packages(self) -> None:
            calls.append("class")

    (tmp_path / "other").mkdir()
    set_up(Mine.as_handler().install_packages, None, tmp_path / "other")
    assert calls[-1] == "class"
    (tmp_path / "plain.py").write_text("def preprocess(x): return x\ndef install_packages(): raise RuntimeError('found')\n")
    entry = resolve.entry_of(import_file(tmp_path, "plain.py"))
    with pytest.raises(RuntimeError, match="found"):
        entry.install_packages()  # type: ignore[union-attr, misc] # a Handler, by the line above
    remind(None, None, tmp_path)
