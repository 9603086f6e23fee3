"""The names in an exported learner are read without running it and shown; a file that cannot be read is refused."""

import io
import os
import pickle
import subprocess
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest

from tests import messages
from tests.errors import fails
from torchrelay.authoring.fastai.export import Options, export, plan
from torchrelay.authoring.fastai.pickle_names import read_names
from torchrelay.core.errors import ModelInvalid


class Runs:
    """Calls a function when it is loaded."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def saved(folder: Path, content: bytes, **more: bytes) -> Path:
    path = folder / "learner.pkl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", content)
        for name, extra in more.items():
            archive.writestr(name.replace("__", "/"), extra)
    return path


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_name_is_found(tmp_path: Path, protocol: int) -> None:
    content = pickle.dumps([OrderedDict(a=1), Path, io.BytesIO, OrderedDict(b=2), Path], protocol)
    names = read_names(saved(tmp_path, content)).names
    assert names[0] == "collections.OrderedDict"
    assert {"pathlib.Path", "_io.BytesIO"} <= set(names)
    assert len(names) == len(set(names))


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize(
    ("function", "arguments"), [(os.system, ("touch ran",)), (eval, ("1",)), (subprocess.call, (["true"],)), (open, ("ran", "w"))]
)
def test_forbidden_names_are_refused_with_the_flag_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: int, function: Any, arguments: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    path = saved(tmp_path, pickle.dumps(Runs(function, *arguments), protocol))
    with pytest.raises(ModelInvalid, match=rf"refers to .*{function.__name__}, which no learner needs; it was not run"):
        export(Options(path, tmp_path / "out", trust=True))
    assert [each.name for each in tmp_path.iterdir()] == ["learner.pkl"]


def test_without_the_flag_names_are_shown_and_nothing_runs(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    path = saved(tmp_path, pickle.dumps(Runs(Path.touch, ran), 2))
    for attempt in (export, plan):
        with pytest.raises(ModelInvalid) as caught:
            attempt(Options(path, tmp_path / "out"))
        text = str(caught.value)
        assert "is a pickle, a program that can do everything that you can" in text
        assert "it refers to pathlib" in text
        assert "--trust-pickle" in text
    assert not ran.exists()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x80\x02cos", "cannot be read to its end"),
        (b"\x80\x02\x82\x01.", "extension registry"),
        (b"\x80\x04\x93.", "computes a name while it is loaded"),
        (b"", "cannot be read to its end"),
    ],
)
def test_a_pickle_that_cannot_be_read_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(ModelInvalid, match=message):
        read_names(saved(tmp_path, content))


def test_other_files_are_refused(tmp_path: Path) -> None:
    good = pickle.dumps(1)
    path = tmp_path / "learner.pkl"
    path.write_bytes(good)
    with pytest.raises(ModelInvalid, match=r"not a file that learn.export\(\) writes"):
        read_names(path)
    with fails(ModelInvalid, words=messages.NOT_EXPORTED):
        read_names(saved(tmp_path, good, other__data__pkl=b"", **{"b__data.pkl": good}))
    with fails(ModelInvalid, words=messages.TORCHSCRIPT):
        read_names(saved(tmp_path, good, **{"archive__constants.pkl": good}))
    with fails(ModelInvalid, words=messages.NOT_A_FILE):
        export(Options(tmp_path / "none.pkl", tmp_path / "out"))


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    path = saved(tmp_path, pickle.dumps(1))
    output = tmp_path / "out"
    output.mkdir()
    (output / "model.yaml").touch()
    with fails(ModelInvalid, words=messages.EXISTS_ALREADY):
        export(Options(path, output, trust=True))
