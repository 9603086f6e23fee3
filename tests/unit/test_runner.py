"""Only Torchrelay itself can send commands to the runner, and its commands arrive unchanged."""

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
from torchrelay.core import runner
from torchrelay.core.errors import GateFailed, ModelInvalid, Problem, TorchrelayError, UnsafeName
from torchrelay.core.log import configure_logging, log, table

hostile = pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
both = pytest.mark.parametrize("act", [False, True], ids=["runner", "act"])


@pytest.fixture(autouse=True)
def commands_accepted_afterwards() -> Iterator[None]:
    handlers, level, propagate = log.handlers[:], log.level, log.propagate
    yield
    log.handlers[:], log.propagate = handlers, propagate
    log.setLevel(level)
    assert runner._Stopped.token == "", "a verb ended while the runner still ignores commands"


@pytest.fixture
def workspace(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Set the variables of a step; return its workspace."""
    for name in ("GITHUB_OUTPUT", "GITHUB_ENV", "GITHUB_PATH"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_WORKSPACE", str(tmp_path))
    return tmp_path


def taken(text: str, *, act: bool = False) -> list[Taken]:
    return Runner(act).read(text).taken


# untrusted output


@both
@hostile
def test_a_harmless_stream_carries_no_command(text: str, act: bool) -> None:
    for size in (1, 2, 3, 7, len(text) or 1):
        for before in ("", "\n", ":", "#", "##", "  "):
            plain = io.StringIO()
            stream = runner.HarmlessStream(plain)
            stream.write(before)
            for start in range(0, min(len(text), 5000), size):
                stream.write(text[start : start + size])
            stream.write("\n")
            assert taken(plain.getvalue(), act=act) == []


def test_control_a_plain_stream_carries_commands() -> None:
    assert sum(bool(taken(text)) for text in HOSTILE.values()) >= 9
    assert sum(bool(taken(text, act=True)) for text in HOSTILE.values()) >= 5


def test_a_harmless_stream_keeps_all_other_text() -> None:
    plain = io.StringIO()
    text = "std::vector a::b ## [x] #[y] http://[::1]:80 # ##\n: :x\n"
    runner.HarmlessStream(plain).write(text)
    assert plain.getvalue() == text


def test_a_harmless_stream_is_not_a_terminal() -> None:
    plain = io.StringIO()
    stream = runner.HarmlessStream(plain)
    assert not stream.isatty()
    stream.writelines(["a\n", "::error::b\n"])
    stream.flush()
    assert plain.getvalue() == "a\n: :error::b\n"


@hostile
def test_json_keeps_the_value_and_carries_no_command(text: str) -> None:
    output = runner.as_json({"a": [text], text: 1})
    assert json.loads(output) == {"a": [text], text: 1}
    assert taken(output) == []


# trusted commands


@hostile
def test_a_command_arrives_unchanged(text: str) -> None:
    line = runner.command("error", text, file=text, title="a,b:c%")
    assert "\n" not in line
    assert taken(line) == [Taken("error", {"title": "a,b:c%"} | ({"file": text} if text else {}), text)]


@pytest.mark.usefixtures("workspace")
@both
def test_only_trusted_commands_pass_while_commands_are_stopped(capfd: pytest.CaptureFixture[str], act: bool) -> None:
    runner.stop()
    sys.stderr.write("::error::a child's, past our streams\n")
    runner.send(runner.command("notice", "text"))
    sys.stderr.write("##[error]again\n")
    runner.resume()
    runner.send(runner.command("notice", "after"))
    assert taken(capfd.readouterr().err, act=act) == [Taken("notice", {}, "text"), Taken("notice", {}, "after")]


@pytest.mark.usefixtures("workspace")
def test_control_without_stop_a_childs_command_passes(capfd: pytest.CaptureFixture[str]) -> None:
    sys.stderr.write("::error::a child's\n")
    assert taken(capfd.readouterr().err) == [Taken("error", {}, "a child's")]


@pytest.mark.usefixtures("workspace")
def test_a_command_starts_on_a_new_line(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", runner.HarmlessStream(sys.stderr))
    runner.stop()
    sys.stderr.write("half a line")
    runner.resume()
    sys.stderr.write("half a line")
    runner.send(runner.command("notice", "text"))
    assert taken(capfd.readouterr().err) == [Taken("notice", {}, "text")]


@pytest.mark.usefixtures("workspace")
def test_commands_resume_after_a_reader_went_away(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrapped:  # stands in for the wrapper that typer puts around a stream then
        def __init__(self, stream: object) -> None:
            self.stream = stream

        def __getattr__(self, name: str) -> object:
            return getattr(self.stream, name)

    monkeypatch.setattr(sys, "stderr", runner.HarmlessStream(sys.stderr))
    runner.stop()
    monkeypatch.setattr(sys, "stderr", Wrapped(sys.stderr))
    reader = Runner().read(capfd.readouterr().err)
    assert reader.stopped
    runner.resume()
    assert not reader.read(capfd.readouterr().err).stopped


@pytest.mark.usefixtures("workspace")
def test_every_stop_has_a_new_token(capfd: pytest.CaptureFixture[str]) -> None:
    for _ in range(3):
        runner.stop()
        runner.stop()
        runner.resume()
        runner.resume()
    words = [line.removeprefix("::stop-commands::") for line in capfd.readouterr().err.split() if "stop-commands" in line]
    assert len(set(words)) == 3
    assert all(len(word) >= 32 for word in words)


def raising(error: BaseException) -> Any:
    def application(*_: Any, **__: Any) -> None:
        console.begin(as_json=False)
        sys.stderr.write("::error::a child's\n")
        raise error

    return application


@pytest.mark.usefixtures("workspace")
@pytest.mark.parametrize(
    "error",
    [GateFailed("no"), OSError(2, "gone"), KeyboardInterrupt(), SystemExit(1), RuntimeError("a bug"), UnsafeName("::error::x")],
    ids=lambda error: type(error).__name__,
)
def test_commands_resume_however_a_verb_ends(
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


def test_without_a_runner_no_command_is_written(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    for name in ("GITHUB_OUTPUT", "GITHUB_ENV", "GITHUB_PATH"):
        monkeypatch.delenv(name, raising=False)
    runner.stop()
    runner.mask("secret")
    runner.export_env("A", "b")
    runner.outputs({"a": 1})
    runner.failed(GateFailed("no"), None)
    runner.resume()
    runner.resume_at_once()
    assert capfd.readouterr().err == ""


# masks


@pytest.mark.usefixtures("workspace")
@both
def test_every_line_of_a_secret_is_masked(capfd: pytest.CaptureFixture[str], act: bool) -> None:
    runner.stop()
    runner.mask("-----BEGIN KEY-----\r\nab%25cd\n}\n\n  fe80::1%0A  \n")
    runner.resume()
    output = capfd.readouterr().err
    assert {one.data for one in taken(output, act=act)} == {"-----BEGIN KEY-----", "ab%25cd", "fe80::1%0A"}
    assert {one.name for one in taken(output, act=act)} == {"add-mask"}


# files


@hostile
def test_an_output_cannot_set_another(text: str, workspace: Path) -> None:
    runner.outputs({"some_name": text, "rows": [text], "next": "z"})
    file = workspace / "GITHUB_OUTPUT"
    outputs = values(file.read_bytes().decode())
    assert set(outputs) == {"some-name", "rows", "next"}
    assert outputs["some-name"] == text.replace("\ud800", "\\ud800")
    assert json.loads(outputs["rows"]) == [text]


def test_control_a_known_delimiter_could_be_closed_early() -> None:
    value = "x\nEOF\nother=1\nlast<<EOF"
    assert values(f"name<<EOF\n{value}\nEOF\n") == {"name": "x", "other": "1", "last": ""}


def test_the_text_of_outputs(workspace: Path) -> None:
    runner.outputs({"a": True, "b": False, "c": None, "d": 3, "e": 1.5, "f": {"g": [1, 2]}, "h": ""})
    output = values((workspace / "GITHUB_OUTPUT").read_text())
    assert output == {"a": "true", "b": "false", "c": "", "d": "3", "e": "1.5", "f": '{"g":[1,2]}', "h": ""}


def test_an_invalid_or_large_output_is_left_out(workspace: Path, caplog: pytest.LogCaptureFixture) -> None:
    log.propagate = True
    runner.outputs({"big": "x" * (runner.MAX_OUTPUT // 2 + 1), "fits": "x" * (runner.MAX_OUTPUT // 2), "b=c\nd": "1", "ok": "1"})
    assert set(values((workspace / "GITHUB_OUTPUT").read_text())) == {"fits", "ok"}
    assert [record.getMessage().partition(" is left out")[0] for record in caplog.records] == ["output big", "output b=c\\nd"]


@hostile
def test_a_variable_cannot_set_another(text: str, workspace: Path) -> None:
    runner.export_env("TORCHRELAY_X", text)
    outputs = values((workspace / "GITHUB_ENV").read_bytes().decode())
    assert outputs == {"TORCHRELAY_X": text.replace("\ud800", "\\ud800")}


@pytest.mark.parametrize("name", ["", "A=B", "A\nB", "1A", "A B", "A<<B", "A-B"])
def test_an_invalid_variable_name_is_an_error(name: str, workspace: Path) -> None:
    with pytest.raises(UnsafeName):
        runner.export_env(name, "x")
    assert not (workspace / "GITHUB_ENV").exists()


# annotations


def test_a_problem_is_annotated_at_its_file_and_line(workspace: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = workspace / "models" / "digits"
    problems = [Problem("model.yaml", 3, "name", "is wrong", "fix it"), Problem("samples/a,b:c.json", None, "", "is\nodd")]
    runner.failed(ModelInvalid(problems), model)
    first, second = taken(capfd.readouterr().err)
    assert first == Taken(
        "error",
        {"file": "models/digits/model.yaml", "line": "3", "title": "model_invalid"},
        "name: is wrong\nfix: fix it",
    )
    assert second == Taken("error", {"file": "models/digits/samples/a,b:c.json", "title": "model_invalid"}, "is\nodd")


def test_a_failed_sample_is_annotated_at_its_file_and_line(workspace: Path, capfd: pytest.CaptureFixture[str]) -> None:
    wrong = Problem("samples/seven.json", 2, "seven", "$: expected 7, got 1")
    runner.failed(GateFailed("digits: seven: $: expected 7, got 1", "fix it", [wrong]), workspace)
    runner.failed(GateFailed("it never became ready"), workspace)
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
def test_file_names_are_relative_to_the_workspace(folder: str, file: str, named: str, tmp_path: Path) -> None:
    assert runner.place_of(file, tmp_path / folder, {"GITHUB_WORKSPACE": str(tmp_path / "ws")}) == named
    assert runner.place_of(file, tmp_path / folder, {}) == file


@hostile
def test_an_annotation_is_one_command(text: str, workspace: Path, capfd: pytest.CaptureFixture[str]) -> None:
    runner.failed(ModelInvalid([Problem(text, 1, text, text, text)]), workspace)
    runner.failed(TorchrelayError(text, text), workspace)
    output = capfd.readouterr().err
    for act in (False, True):
        commands = taken(output, act=act)
        assert [one.name for one in commands] == ["error", "error"]
        assert commands[0].properties["line"] == "1"
        assert all(len(one.data) < 4100 for one in commands)
        assert "\x1b" not in commands[0].data
        assert "\u202e" not in commands[0].data


def test_warnings_become_annotations_and_information_does_not(workspace: Path, capfd: pytest.CaptureFixture[str]) -> None:
    configure_logging(verbose=False, folder=lambda: workspace / "m")
    log.info("%s", "::error::printed by a model")
    log.warning("%s", Problem("model.yaml", 7, "name", "is odd"))
    log.error("worse")
    runner.notice("text")
    logging.getLogger("torchrelay.x").warning("below")
    output = capfd.readouterr().err
    expected = [
        Taken("error", {}, "printed by a model"),  # what `shield` is for: the handler alone does not make lines harmless
        Taken("warning", {"file": "m/model.yaml", "line": "7"}, "name: is odd"),
        Taken("error", {}, "worse"),
        Taken("notice", {}, "text"),
        Taken("warning", {}, "below"),
    ]
    assert taken(output) == expected


@pytest.mark.usefixtures("workspace")
def test_shield_protects_log_and_table(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    monkeypatch.setattr(sys, "stderr", sys.stderr)
    runner.shield()
    configure_logging(verbose=False)
    log.info("%s", "::error::printed by a model")
    table("::error::title", ["a"], [["##[error]x"], ["::error::y"]])
    sys.stdout.write("##[error]x\n")
    output = capfd.readouterr()
    assert taken(output.err + output.out) == []


def test_without_a_runner_warnings_are_log_lines(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    configure_logging(verbose=False)
    log.warning("odd")
    runner.notice("text")
    assert capfd.readouterr().err == "odd\ntext\n"
