"""Weights that execute code load only when they are declared; canary files show that nothing of the others runs."""

import io
import json
import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchrelay.authoring.init import InitOptions, init
from torchrelay.core import progress
from torchrelay.core.errors import ArchiveInvalid, ModelInvalid
from torchrelay.core.paths import ROOT
from torchrelay.image.mar import Archived
from torchrelay.model.model import load_model
from torchrelay.stages import archive, check, fetch
from torchrelay.workflow.job_result import gather
from torchrelay_handlers import settings
from torchrelay_handlers.network import exported, loading
from torchrelay_handlers.network.weights_format import WeightsError

CPU = torch.device("cpu")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.first(x))


class WritesAtLoad(nn.Module):
    """TorchScript that makes a file while torch.jit.load reads it."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    def forward(self, x: Tensor) -> Tensor:
        return x

    @torch.jit.export
    def __getstate__(self) -> tuple[str, bool]:
        return self.path, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[str, bool]) -> None:
        self.path = state[0]
        self.training = bool(torch.from_file(self.path, True, 16).sum() > 0)  # its result is used: otherwise torch leaves it out


class Runs:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    return tmp_path / "canary"


def torchscript(path: Path, canary: Path) -> None:
    torch.jit.script(WritesAtLoad(str(canary))).save(str(path))  # type: ignore[no-untyped-call] # torch's own


def pt2(path: Path, _canary: Path) -> None:
    torch.export.save(torch.export.export(Net().eval(), (torch.ones(2, 4),)), path)


def aoti(path: Path, _canary: Path) -> None:
    with zipfile.ZipFile(path, "w") as package:
        package.writestr("model/data/aotinductor/model/model.so", b"\x7fELF")


def state_dict(path: Path, _canary: Path) -> None:
    torch.save(Net().state_dict(), path)


MAKERS: dict[str, Callable[[Path, Path], None]] = {"torchscript": torchscript, "pt2": pt2, "aoti": aoti}


def model_dir(folder: Path, weights: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "model.yaml").write_text(f"name: net\nweights: {weights}\nhandler: tensor\nmodel_file: model.py\n")
    (folder / "model.py").write_text("import torch\n\ndef init_function():\n    return torch.nn.Linear(4, 2)\n")
    return folder


def archived(folder: Path) -> Archived:
    model = load_model(folder)
    fetched = fetch.run(folder, model, cache=folder / "cache", progress=progress.progress())
    return archive.run(folder, model, fetched, "1.0", progress.progress())


@pytest.mark.parametrize("name", MAKERS)
def test_code_that_is_not_declared_is_refused_everywhere_and_nothing_runs(tmp_path: Path, name: str, canary: Path) -> None:
    folder = model_dir(tmp_path / "net", "model.pt")
    MAKERS[name](folder / "model.pt", canary)
    line = f"weights: {{uri: model.pt, format: {name}}}"
    with pytest.raises(WeightsError) as worker:
        loading.load(folder / "model.pt", Net, CPU)
    with pytest.raises(ModelInvalid) as checked:
        check.run(folder, with_samples=False)
    with pytest.raises(ModelInvalid) as stage:
        archived(folder)
    for error in (worker, checked, stage):
        assert line in str(error.value)
        assert f"model.pt is a {name} file, which executes its author's code when it is loaded" in str(error.value)
    assert checked.value.problems[0].line == 2
    assert not list(folder.rglob("*.mar"))
    assert not canary.exists()


@pytest.mark.parametrize("declared", ["state_dict", "safetensors", "torchscript", "pt2", "aoti"])
@pytest.mark.parametrize("name", [*MAKERS, "state_dict"])
def test_another_format_than_the_declared_one_is_refused_everywhere(tmp_path: Path, name: str, declared: str, canary: Path) -> None:
    if name == declared:
        return
    folder = model_dir(tmp_path / "net", f"{{uri: model.pt, format: {declared}}}")
    (MAKERS | {"state_dict": state_dict})[name](folder / "model.pt", canary)
    message = f"model.pt is declared as {declared}, but its bytes are {name}"
    with pytest.raises(WeightsError, match=message):
        loading.load(folder / "model.pt", Net, CPU, declared)
    with pytest.raises(ModelInvalid, match=message):
        check.run(folder, with_samples=False)
    with pytest.raises(ModelInvalid, match=message):
        archived(folder)
    assert not canary.exists()


@pytest.mark.parametrize("name", MAKERS)
def test_declared_code_passes_and_check_says_that_it_executes(tmp_path: Path, name: str, canary: Path) -> None:
    folder = model_dir(tmp_path / "net", f"{{uri: model.pt, format: {name}}}")
    MAKERS[name](folder / "model.pt", canary)
    (folder / "samples").mkdir()
    (folder / "samples/one.json").write_text('{"request": {"json": [1, 2, 3, 4]}, "expect": {"json": [1, 2]}}')
    done = subprocess.run(
        [sys.executable, "-m", "torchrelay", "check", folder, "--json"],
        env={**os.environ, "PYTHONPATH": str(ROOT / "scripts")}, capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert json.loads(done.stdout).items() >= {"weights_format": name, "executes_code": True}.items()
    row = gather(folder, bundle=False).stages[0]
    assert (row.stage, row.weights_format, row.executes_code) == ("check", name, True)  # for the summary
    with zipfile.ZipFile(archived(folder).path) as mar:
        mar.extract("torchrelay.json", tmp_path)
    assert settings.read(tmp_path).weights_format == name
    assert not canary.exists()  # neither check nor archive loads it


def test_declared_torchscript_loads_and_its_canary_sings(tmp_path: Path, canary: Path) -> None:
    torchscript(tmp_path / "model.pt", canary)
    loading.load(tmp_path / "model.pt", None, CPU, "torchscript")
    assert canary.exists()


def test_data_needs_no_declaration(tmp_path: Path) -> None:
    folder = model_dir(tmp_path / "net", "model.pt")
    state_dict(folder / "model.pt", folder)
    assert check.run(folder, with_samples=False).executes_code == {}
    with zipfile.ZipFile(archived(folder).path) as mar:
        assert "weights_format" not in json.loads(mar.read("torchrelay.json"))
    loading.load(folder / "model.pt", Net, CPU, "state_dict")


def test_damaged_weights_are_not_archived(tmp_path: Path) -> None:
    path = model_dir(tmp_path / "net", "model.pt") / "model.pt"
    torch.save({"weight": torch.ones(100_000)}, path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    message = r"weights: model\.pt: the file is damaged: the bytes of record 'model/data/0' have changed"
    with pytest.raises(ArchiveInvalid, match=message):
        archived(path.parent)


def test_init_writes_the_line_for_code(tmp_path: Path, canary: Path) -> None:
    torchscript(tmp_path / "my.pt", canary)
    init(tmp_path, InitOptions(weights="my.pt"))
    assert load_model(tmp_path).weights.format == "torchscript"
    assert not canary.exists()


def hide(path: Path, changes: dict[str, bytes]) -> None:
    """Replace or add records of a .pt2, by their name below its folder."""
    with zipfile.ZipFile(path) as package:
        records = {info.filename: package.read(info) for info in package.infolist()}
    folder = next(iter(records)).partition("/")[0]
    with zipfile.ZipFile(path, "w") as package:
        for name, content in (records | {f"{folder}/{inner}": content for inner, content in changes.items()}).items():
            package.writestr(name, content)


def config_with_pickle(path: Path) -> bytes:
    with zipfile.ZipFile(path) as package:
        name = next(name for name in package.namelist() if name.endswith("data/weights/model_weights_config.json"))
        config = json.loads(package.read(name))
    for entry in config["config"].values():
        entry |= {"use_pickle": True, "path_name": "hidden"}
    return json.dumps(config).encode()


def hostile(path: Path, canary: Path, where: str) -> str:
    """A .pt2 with a pickle that makes the canary; returns its record."""
    pt2(path, canary)
    pickled = io.BytesIO()
    torch.save({"a": Runs(canary)}, pickled)
    if where == "weights":
        hide(path, {"data/weights/model_weights_config.json": config_with_pickle(path), "data/weights/hidden": pickled.getvalue()})
        return "data/weights/hidden"
    record = {"inputs": "data/sample_inputs/model.pt", "legacy": "data/weights/model.pt"}[where]
    hide(path, {record: pickled.getvalue()})
    return record


@pytest.mark.parametrize("where", ["inputs", "weights", "legacy"])
def test_the_pickles_in_a_declared_pt2_are_data_or_it_is_refused(tmp_path: Path, where: str, canary: Path) -> None:
    record = hostile(tmp_path / "model.pt2", canary, where)
    with pytest.raises(
        WeightsError, match=rf"model\.pt2: record {record} is refused: it asks for posix\.system, which is not data"
    ):
        loading.load(tmp_path / "model.pt2", None, CPU, "pt2")
    assert not canary.exists()


@pytest.mark.parametrize("where", ["inputs", "weights", "legacy"])
def test_torch_itself_would_run_them(tmp_path: Path, where: str, canary: Path) -> None:
    hostile(tmp_path / "model.pt2", canary, where)
    try:
        torch.export.load(str(tmp_path / "model.pt2"))
    except Exception:
        assert canary.exists()
    assert canary.exists()


@pytest.mark.parametrize("where", ["inputs", "weights", "legacy"])
def test_torch_does_not_fall_back_to_unrestricted_pickles(
    tmp_path: Path, where: str, canary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second defence: a pickle that the first one would not see."""
    hostile(tmp_path / "model.pt2", canary, where)
    monkeypatch.setattr(exported, "_require_data", lambda _: None)
    with pytest.raises(WeightsError, match=r"^model\.pt2 is refused: it asks for posix\.system"):
        loading.load(tmp_path / "model.pt2", None, CPU, "pt2")
    assert not canary.exists()
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ


@pytest.mark.parametrize(("named", "record"), [("opaque_obj_0",) * 2, ("opaque_obj_0", "OPAQUE_obj_0"), ("opaque_obj_/../x",) * 2])
def test_objects_of_a_pt2_are_refused_under_any_name(tmp_path: Path, canary: Path, named: str, record: str) -> None:
    path = tmp_path / "model.pt2"
    pt2(path, canary)
    entry = {"path_name": named, "is_param": False, "use_pickle": True, "tensor_meta": None}
    config = json.dumps({"config": {"a": entry}}).encode()
    hide(path, {"data/constants/model_constants_config.json": config, f"data/constants/{record}": pickle.dumps(Runs(canary))})
    with pytest.raises(WeightsError, match=r"^model\.pt2(: record| is a damaged file)"):
        loading.load(path, None, CPU, "pt2")
    assert not canary.exists()
    torch.export.load(str(path))
    assert canary.exists()  # torch itself runs it


def test_opaque_objects_of_a_pt2_are_refused(tmp_path: Path, canary: Path) -> None:
    pt2(tmp_path / "model.pt2", canary)
    hide(tmp_path / "model.pt2", {"data/constants/opaque_obj_0": b"cposix\nsystem\n(S'touch " + str(canary).encode() + b"'\ntR."})
    with pytest.raises(WeightsError, match=r"model\.pt2: record data/constants/opaque_obj_0"):
        loading.load(tmp_path / "model.pt2", None, CPU, "pt2")
    assert not canary.exists()


@pytest.mark.parametrize(
    ("name", "words"), [("torchscript", "as TorchScript"), ("pt2", "by torch"), ("aoti", "a compiled package")]
)
def test_declared_code_that_cannot_be_read_is_one_clear_error(tmp_path: Path, name: str, words: str) -> None:
    path = tmp_path / "model.pt"
    inner = {"torchscript": "code/x.py", "pt2": "archive_format", "aoti": "data/aotinductor/model/model.so"}[name]
    with zipfile.ZipFile(path, "w") as package:
        package.writestr(f"model/{inner}", b"pt2")
    with pytest.raises(
        WeightsError, match=rf"^model\.pt cannot be (read|loaded) {words}[^\n]*$|^model\.pt cannot be loaded as {words}"
    ):
        loading.load(path, None, CPU, name)
