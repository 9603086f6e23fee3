"""Nothing but we ourselves can give the runner a command, and what we give it arrives as it was meant."""

import io
import json
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.runner_lines import HOSTILE, Runner, Taken, values
from torchrelay.cli import console, main
from torchrelay.core import runner as github
from torchrelay.core.errors import GateFailed, ModelInvalid, Problem, TorchrelayError, UnsafeName
from torchrelay.core.log import configure_logging, log, table

hostile = pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
both = pytest.mark.parametrize("act", [False, True], ids=["runner", "act"])


@pytest.fixture(autouse=True)
def no_word_left() -> Iterator[None]:
    handlers, level, propagate = log.handlers[:], log.level, log.propagate
    yield
    log.handlers[:], log.propagate = handlers, propagate
    log.setLevel(level)
    assert github._Stopped.word == "", "a command ended without letting the runner take commands again"
    github.Annotations.folder = None


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Be in a step of a runner; its workspace."""
    for name in ("GITHUB_OUTPUT", "GITHUB_ENV", "GITHUB_PATH"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_WORKSPACE", str(tmp_path))
    return tmp_path


def taken(text: str, *, act: bool = False) -> list[Taken]:
    return Runner(act).read(text).taken


# what others print


@both
@hostile
def test_a_stream_of_ours_carries_no_command(text: str, act: bool) -> None:
    for size in (1, 2, 3, 7, len(text) or 1):
        for before in ("", "\n", ":", "#", "##", "  "):
            there = io.StringIO()
            stream = github.Harmless(there)
            stream.write(before)
            for start in range(0, min(len(text), 5000), size):
                stream.write(text[start : start + size])
            stream.write("\n")
            assert taken(there.getvalue(), act=act) == []


def test_control_the_runner_takes_them_from_a_bare_stream() -> None:
    assert sum(bool(taken(text)) for text in HOSTILE.values()) >= 9
    assert sum(bool(taken(text, act=True)) for text in HOSTILE.values()) >= 5


def test_a_stream_of_ours_leaves_everything_else_alone() -> None:
    there = io.StringIO()
    text = "std::vector a::b ## [x] #[y] http://[::1]:80 # ##\n: :x\n"
    github.Harmless(there).write(text)
    assert there.getvalue() == text


def test_a_stream_of_ours_is_no_terminal_and_keeps_the_rest() -> None:
    there = io.StringIO()
    stream = github.Harmless(there)
    assert not stream.isatty()
    stream.writelines(["a\n", "::error::b\n"])
    stream.flush()
    assert there.getvalue() == "a\n: :error::b\n"


@hostile
def test_json_holds_the_same_value_and_no_command(text: str) -> None:
    told = github.as_json({"a": [text], text: 1})
    assert json.loads(told) == {"a": [text], text: 1}
    assert taken(told) == []


# what we tell


@hostile
def test_a_command_arrives_whole(text: str) -> None:
    line = github.command("error", text, file=text, title="a,b:c%")
    assert "\n" not in line
    assert taken(line) == [Taken("error", {"title": "a,b:c%"} | ({"file": text} if text else {}), text)]


@pytest.mark.usefixtures("runner")
@both
def test_others_are_stopped_and_ours_are_not(capfd: pytest.CaptureFixture[str], act: bool) -> None:
    github.stop()
    sys.stderr.write("::error::a child's, past our streams\n")
    github.send(github.command("notice", "ours"))
    sys.stderr.write("##[error]again\n")
    github.resume()
    github.send(github.command("notice", "after"))
    assert taken(capfd.readouterr().err, act=act) == [Taken("notice", {}, "ours"), Taken("notice", {}, "after")]


@pytest.mark.usefixtures("runner")
def test_control_without_stop_a_child_is_heard(capfd: pytest.CaptureFixture[str]) -> None:
    sys.stderr.write("::error::a child's\n")
    assert taken(capfd.readouterr().err) == [Taken("error", {}, "a child's")]


@pytest.mark.usefixtures("runner")
def test_our_commands_begin_a_line(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", github.Harmless(sys.stderr))
    github.stop()
    sys.stderr.write("half a line")
    github.resume()
    sys.stderr.write("half a line")
    github.send(github.command("notice", "ours"))
    assert taken(capfd.readouterr().err) == [Taken("notice", {}, "ours")]


@pytest.mark.usefixtures("runner")
def test_the_runner_takes_commands_again_when_a_reader_went_away(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Wrapped:  # stands in for the wrapper that typer puts around a stream then
        def __init__(self, stream: object) -> None:
            self.stream = stream

        def __getattr__(self, name: str) -> object:
            return getattr(self.stream, name)

    monkeypatch.setattr(sys, "stderr", github.Harmless(sys.stderr))
    github.stop()
    monkeypatch.setattr(sys, "stderr", Wrapped(sys.stderr))
    reader = Runner().read(capfd.readouterr().err)
    assert reader.stopped
    github.resume()
    assert not reader.read(capfd.readouterr().err).stopped


@pytest.mark.usefixtures("runner")
def test_a_word_is_never_used_twice(capfd: pytest.CaptureFixture[str]) -> None:
    for _ in range(3):
        github.stop()
        github.stop()
        github.resume()
        github.resume()
    words = [line.removeprefix("::stop-commands::") for line in capfd.readouterr().err.split() if "stop-commands" in line]
    assert len(set(words)) == 3
    assert all(len(word) >= 32 for word in words)


def raising(error: BaseException) -> Any:
    def application(*_: Any, **__: Any) -> None:
        console.begin(as_json=False)
        sys.stderr.write("::error::a child's\n")
        raise error

    return application


@pytest.mark.usefixtures("runner")
@pytest.mark.parametrize(
    "error",
    [GateFailed("no"), OSError(2, "gone"), KeyboardInterrupt(), SystemExit(1), RuntimeError("a bug"), UnsafeName("::error::x")],
    ids=lambda error: type(error).__name__,
)
def test_the_runner_takes_commands_again_however_a_verb_ends(
    error: BaseException, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "dup2", lambda *_: None)
    if isinstance(error, RuntimeError):
        with pytest.raises(RuntimeError):
            main.run([], raising(error))
    else:
        assert main.run([], raising(error)) != 0
    reader = Runner().read(capfd.readouterr().err)
    assert not reader.stopped
    assert [one.name for one in reader.taken] == ([] if isinstance(error, RuntimeError | SystemExit) else ["error"])
    assert all("a child's" not in one.data for one in reader.taken)


def test_elsewhere_no_command_is_told(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    for name in ("GITHUB_OUTPUT", "GITHUB_ENV", "GITHUB_PATH"):
        monkeypatch.delenv(name, raising=False)
    github.stop()
    github.mask("secret")
    with github.group("x"):
        github.export_env("A", "b")
        github.add_path(Path("/x"))
        github.outputs({"a": 1})
    github.failed(GateFailed("no"), None)
    github.resume()
    github.resume_at_once()
    assert capfd.readouterr().err == ""


# masks


@pytest.mark.usefixtures("runner")
@both
def test_a_secret_is_masked_whole_and_by_line(capfd: pytest.CaptureFixture[str], act: bool) -> None:
    github.stop()
    github.mask("-----BEGIN KEY-----\r\nab%25cd\n}\n\n  fe80::1%0A  \n")
    github.resume()
    told = capfd.readouterr().err
    assert {one.data for one in taken(told, act=act)} == {"-----BEGIN KEY-----", "ab%25cd", "fe80::1%0A"}
    assert {one.name for one in taken(told, act=act)} == {"add-mask"}


# files


@hostile
def test_an_output_is_its_value_and_no_other(text: str, runner: Path) -> None:
    github.outputs({"some_name": text, "rows": [text], "next": "z"})
    file = runner / "GITHUB_OUTPUT"
    found = values(file.read_bytes().decode())
    assert set(found) == {"some-name", "rows", "next"}
    assert found["some-name"] == text.replace("\ud800", "\\ud800")
    assert json.loads(found["rows"]) == [text]


def test_control_a_known_delimiter_would_be_closed_early() -> None:
    value = "x\nEOF\nother=1\nlast<<EOF"
    assert values(f"name<<EOF\n{value}\nEOF\n") == {"name": "x", "other": "1", "last": ""}


def test_outputs_say_true_false_and_nothing(runner: Path) -> None:
    github.outputs({"a": True, "b": False, "c": None, "d": 3, "e": 1.5, "f": {"g": [1, 2]}, "h": ""})
    told = values((runner / "GITHUB_OUTPUT").read_text())
    assert told == {"a": "true", "b": "false", "c": "", "d": "3", "e": "1.5", "f": '{"g":[1,2]}', "h": ""}


def test_an_output_that_github_would_refuse_is_left_out(runner: Path, caplog: pytest.LogCaptureFixture) -> None:
    log.propagate = True
    github.outputs({"big": "x" * (github.MAX_OUTPUT // 2 + 1), "fits": "x" * (github.MAX_OUTPUT // 2), "b=c\nd": "1", "ok": "1"})
    assert set(values((runner / "GITHUB_OUTPUT").read_text())) == {"fits", "ok"}
    assert [record.getMessage().partition(" is left out")[0] for record in caplog.records] == ["output big", "output b=c\\nd"]


@hostile
def test_a_variable_is_its_value_and_no_other(text: str, runner: Path) -> None:
    github.export_env("TORCHRELAY_X", text)
    found = values((runner / "GITHUB_ENV").read_bytes().decode())
    assert found == {"TORCHRELAY_X": text.replace("\ud800", "\\ud800")}


@pytest.mark.parametrize("name", ["", "A=B", "A\nB", "1A", "A B", "A<<B", "A-B"])
def test_a_variable_has_a_name(name: str, runner: Path) -> None:
    with pytest.raises(UnsafeName):
        github.export_env(name, "x")
    assert not (runner / "GITHUB_ENV").exists()


def test_a_path_is_one_line(runner: Path) -> None:
    github.add_path(Path("/opt/x y"))
    for bad in ("/a\n/b", "/a\r/b", "/a\x85/b"):
        with pytest.raises(UnsafeName):
            github.add_path(Path(bad))
    assert (runner / "GITHUB_PATH").read_text() == "/opt/x y\n"


# annotations


def test_every_problem_is_at_its_file_and_line(runner: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = runner / "models" / "digits"
    problems = [Problem("model.yaml", 3, "name", "is wrong", "mend it"), Problem("samples/a,b:c.json", None, "", "is\nodd")]
    github.failed(ModelInvalid(problems), model)
    first, second = taken(capfd.readouterr().err)
    assert first == Taken(
        "error",
        {"file": "models/digits/model.yaml", "line": "3", "title": "model_invalid"},
        "name: is wrong\nfix: mend it",
    )
    assert second == Taken("error", {"file": "models/digits/samples/a,b:c.json", "title": "model_invalid"}, "is\nodd")


def test_a_failed_sample_is_at_its_file_and_line(runner: Path, capfd: pytest.CaptureFixture[str]) -> None:
    wrong = Problem("samples/seven.json", 2, "seven", "$: expected 7, got 1")
    github.failed(GateFailed("digits: seven: $: expected 7, got 1", "mend it", [wrong]), runner)
    github.failed(GateFailed("it never became ready"), runner)
    at_sample, at_nothing = taken(capfd.readouterr().err)
    assert at_sample.properties == {"file": "samples/seven.json", "line": "2", "title": "gate_failed"}
    assert at_nothing.properties == {"title": "gate_failed"}


@pytest.mark.parametrize(
    ("folder", "file", "named"),
    [
        ("ws/m", "model.yaml", "m/model.yaml"),
        ("ws", "./model.yaml", "model.yaml"),
        ("ws/m", "../other/x", "other/x"),
        ("elsewhere", "model.yaml", "model.yaml"),
        ("ws/m", "../../x", "../../x"),
    ],
)
def test_a_file_is_named_from_the_workspace(folder: str, file: str, named: str, tmp_path: Path) -> None:
    assert github.place_of(file, tmp_path / folder, {"GITHUB_WORKSPACE": str(tmp_path / "ws")}) == named
    assert github.place_of(file, tmp_path / folder, {}) == file


@hostile
def test_an_annotation_is_one_command(text: str, runner: Path, capfd: pytest.CaptureFixture[str]) -> None:
    github.failed(ModelInvalid([Problem(text, 1, text, text, text)]), runner)
    github.failed(TorchrelayError(text, text), runner)
    told = capfd.readouterr().err
    for act in (False, True):
        found = taken(told, act=act)
        assert [one.name for one in found] == ["error", "error"]
        assert found[0].properties["line"] == "1"
        assert all(len(one.data) < 4100 for one in found)
        assert "\x1b" not in found[0].data
        assert "\u202e" not in found[0].data


def test_warnings_are_annotations_and_information_is_not(runner: Path, capfd: pytest.CaptureFixture[str]) -> None:
    configure_logging(verbose=False)
    github.Annotations.folder = runner / "m"
    log.info("%s", "::error::said by a model")
    log.warning("%s", Problem("model.yaml", 7, "name", "is odd"))
    log.error("worse")
    github.notice("told")
    logging.getLogger("torchrelay.x").warning("below")
    told = capfd.readouterr().err
    expected = [
        Taken("error", {}, "said by a model"),  # what `shield` is for: the handler alone does not make lines harmless
        Taken("warning", {"file": "m/model.yaml", "line": "7"}, "name: is odd"),
        Taken("error", {}, "worse"),
        Taken("notice", {}, "told"),
        Taken("warning", {}, "below"),
    ]
    assert taken(told) == expected


@pytest.mark.usefixtures("runner")
def test_shield_holds_for_log_and_table(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    monkeypatch.setattr(sys, "stderr", sys.stderr)
    github.shield()
    configure_logging(verbose=False)
    log.info("%s", "::error::said by a model")
    table("::error::title", ["a"], [["##[error]x"], ["::error::y"]])
    sys.stdout.write("##[error]x\n")
    told = capfd.readouterr()
    assert taken(told.err + told.out) == []


def test_elsewhere_warnings_are_lines(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    configure_logging(verbose=False)
    log.warning("odd")
    github.notice("told")
    assert capfd.readouterr().err == "odd\ntold\n"
