"""`torchrelay init` on a terminal: the questions, their defaults, and the model directory made from the answers."""

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from torchrelay.model.model import Model
from torchrelay.stages import check

LIMIT_S = 120
COMMAND = (sys.executable, "-m", "torchrelay", "init")


def init_on_terminal(folder: Path, answers: list[str], *flags: str) -> subprocess.CompletedProcess[str]:
    """Run `init` with a terminal as its input, into which the answers are typed."""
    terminal, stdin = pty.openpty()
    try:
        os.write(terminal, "".join(f"{answer}\n" for answer in answers).encode())
        return subprocess.run(
            [*COMMAND, str(folder), *flags], stdin=stdin, capture_output=True, text=True, check=False, timeout=LIMIT_S
        )
    finally:
        os.close(stdin)
        os.close(terminal)


def model_of(folder: Path) -> Model:
    return check.run(folder).model


def test_enter_takes_every_default(tmp_path: Path) -> None:
    done = init_on_terminal(tmp_path / "Iris 2", ["", "", "", ""])
    assert done.returncode == 0, done.stderr
    for prompt in ("Name of the model [iris-2]:", "Handler [tensor]:", "Weights: ", "Device [cpu]:"):
        assert prompt in done.stderr
    assert "Classes" not in done.stderr
    model = model_of(tmp_path / "Iris 2")
    assert (model.name, model.handler, model.device) == ("iris-2", "tensor", "cpu")


def test_the_answers_make_the_directory_and_classes_are_asked_for_where_they_apply(tmp_path: Path) -> None:
    done = init_on_terminal(tmp_path / "new", ["pets", "image-classifier", "cat, dog , bird", "s3://bucket/pets.pt", "gpu"])
    assert done.returncode == 0, done.stderr
    assert "Classes, separated by commas [cat, dog]:" in done.stderr
    model = model_of(tmp_path / "new")
    assert (model.name, model.handler, model.device) == ("pets", "image-classifier", "gpu")
    assert (model.weights.uri, model.handler_args["classes"]) == ("s3://bucket/pets.pt", ["cat", "dog", "bird"])


def test_an_illegal_answer_writes_nothing(tmp_path: Path) -> None:
    done = init_on_terminal(tmp_path / "new", ["", "tensr", "", ""])
    assert done.returncode == 10
    assert "did you mean tensor?" in done.stderr
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("flags", [["--name", "a"], ["--device", "cpu"]])
def test_a_flag_turns_the_questions_off(tmp_path: Path, flags: list[str]) -> None:
    done = init_on_terminal(tmp_path / "new", [], *flags)
    assert done.returncode == 0, done.stderr
    assert "Handler [" not in done.stderr


def test_without_a_terminal_nothing_is_asked(tmp_path: Path) -> None:
    argv = [*COMMAND, str(tmp_path / "new")]
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=LIMIT_S)
    assert done.returncode == 0, done.stderr
    assert "Handler [" not in done.stderr
