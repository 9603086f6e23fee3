"""Weights are what their bytes say, load strictly, and never run code from a pickle."""

import json
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchrelay_handlers.network import loading, state_files, weights_format
from torchrelay_handlers.network.weights_format import WeightsError

CPU = torch.device("cpu")


class Net(nn.Module):
    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.first = nn.Linear(2, width)
        self.norm = nn.BatchNorm1d(width)
        self.register_buffer("steps", torch.arange(3), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        normed: Tensor = self.norm(self.first(x))
        return normed


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(3)
    return Net().eval()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "weights.whatever"


def save_safetensors(state: dict[str, Tensor], path: Path) -> None:
    """The format by hand, https://huggingface.co/docs/safetensors, so that the test does not need the package."""
    header, data = {}, b""
    for name, tensor in state.items():
        raw = tensor.numpy().tobytes()
        kind = {torch.float32: "F32", torch.int64: "I64"}[tensor.dtype]
        header[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def check(net: nn.Module, path: Path, kind: str) -> None:
    assert weights_format.kind_of(path) == kind
    x = torch.ones(4, 2)
    with torch.inference_mode():
        got = loading.load(path, Net, CPU)
        assert torch.equal(got.call(x), net(x))
    assert got.dtype == torch.float32


def test_a_zipped_state_dict(net: nn.Module, path: Path) -> None:
    torch.save(net.state_dict(), path)
    check(net, path, weights_format.STATE_DICT)


def test_a_legacy_state_dict(net: nn.Module, path: Path) -> None:
    torch.save(net.state_dict(), path, _use_new_zipfile_serialization=False)
    check(net, path, weights_format.LEGACY)


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (["w/data.pkl", "w/data/0"], weights_format.STATE_DICT),
        (["w/data.pkl", "w/constants.pkl", "w/code/__torch__.py"], weights_format.TORCHSCRIPT),
        (["w/archive_format", "w/models/model.json"], weights_format.EXPORTED),
        (["archive_format", "data/weights/w.pt"], weights_format.EXPORTED),
        (["serialized_exported_program.json"], weights_format.EXPORTED),
    ],
)
def test_the_kind_of_a_zip_file_is_in_its_entries(path: Path, names: list[str], kind: str) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, b"")
    assert weights_format.kind_of(path) == kind


def test_another_zip_file_is_refused(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", b"")
    with pytest.raises(WeightsError, match=r"not one that torch\.save writes"):
        weights_format.kind_of(path)


def test_safetensors_are_known_and_ask_for_their_package(net: nn.Module, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_safetensors(dict(net.state_dict()), path)
    assert weights_format.kind_of(path) == weights_format.SAFETENSORS
    monkeypatch.setitem(__import__("sys").modules, "safetensors.torch", None)
    with pytest.raises(WeightsError, match="add safetensors to requirements"):
        loading.load(path, Net, CPU)


def test_every_missing_unexpected_and_misshapen_entry_is_named(net: nn.Module, path: Path) -> None:
    state = dict(net.state_dict())
    state["extra"] = torch.zeros(7)
    del state["norm.bias"]
    state["first.weight"] = torch.zeros(5, 2)
    torch.save(state, path)
    with pytest.raises(WeightsError) as refused:
        loading.load(path, Net, CPU)
    assert str(refused.value).splitlines()[1:] == [
        "  missing in the file: norm.bias [3]",
        "  not in the network: extra [7]",
        "  first.weight: [5, 2] in the file, [3, 2] in the network",
    ]


def test_initialization_is_skipped_but_buffers_are_made(net: nn.Module, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(net.state_dict(), path)
    state = state_files.read_state(path, weights_format.STATE_DICT)
    monkeypatch.setattr(torch.Tensor, "uniform_", lambda *_: pytest.fail("weights were filled that are overwritten"))
    model = loading.fill(Net, state, "weights")
    assert torch.equal(model.get_buffer("steps"), torch.arange(3))
    assert model.get_parameter("first.weight").data_ptr() == state["first.weight"].data_ptr()  # mapped, not copied


def test_the_networks_dtype_stays(net: nn.Module, path: Path) -> None:
    torch.save({name: t.half() if t.is_floating_point() else t for name, t in net.state_dict().items()}, path)
    assert (
        loading.fill(Net, state_files.read_state(path, weights_format.STATE_DICT), "w").get_parameter("first.weight").dtype
        == torch.float32
    )


@pytest.mark.parametrize("wrap", [lambda s: {"state_dict": s, "epoch": 3}, lambda s: {"module." + k: v for k, v in s.items()}])
def test_checkpoints_and_parallel_models_are_understood(net: nn.Module, path: Path, wrap: object) -> None:
    torch.save(wrap(net.state_dict()), path)  # type: ignore[operator] # its kind is known here
    check(net, path, weights_format.STATE_DICT)


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("the pickle ran code",))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_runs_code_is_refused_unrun(path: Path, zipped: bool) -> None:
    torch.save({"weights": Bomb()}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(WeightsError, match=r"save the tensors alone:\n    torch\.save\(model\.state_dict\(\)"):
        loading.load(path, Net, CPU)


def test_a_whole_model_is_refused(net: nn.Module, path: Path) -> None:
    torch.save(net, path)
    with pytest.raises(WeightsError, match=r"save the tensors alone:\n    torch\.save\(model\.state_dict\(\)"):
        loading.load(path, Net, CPU)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"<!DOCTYPE html>", "web page"),
        (b"PK\x03\x04broken", "damaged"),
        (pickle.dumps({"a": 1}), "not a weights file"),
        (b"hello", "not a weights file"),
    ],
)
def test_a_file_that_is_not_weights_is_refused_with_a_message(path: Path, content: bytes, words: str) -> None:
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=words):
        loading.load(path, Net, CPU)


def test_a_truncated_file_is_refused(net: nn.Module, path: Path) -> None:
    torch.save(net.state_dict(), path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(WeightsError, match="damaged"):
        loading.load(path, Net, CPU)


def test_a_missing_file_or_function_is_reported(net: nn.Module, path: Path) -> None:
    with pytest.raises(WeightsError, match="are not in"):
        loading.load(path, Net, CPU)
    torch.save(net.state_dict(), path)
    with pytest.raises(WeightsError, match="init_function"):
        loading.load(path, None, CPU)
    with pytest.raises(WeightsError, match=r"must return a torch\.nn\.Module"):
        loading.load(path, lambda: "a network", CPU)  # type: ignore[arg-type,return-value]


@pytest.mark.parametrize("version", ["2.5.1", "2.9.1+cu128", "1.13", "nonsense"])
def test_an_old_torch_is_not_allowed_to_read_pickles(version: str) -> None:
    with pytest.raises(WeightsError, match=r"2\.10"):
        state_files.check_torch(version)


def test_the_torch_at_hand_is_asked(net: nn.Module, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(net.state_dict(), path)
    monkeypatch.setattr(torch, "__version__", "2.9.1")
    with pytest.raises(WeightsError, match=r"torch 2\.9\.1 reads pickled weights unsafely"):
        loading.load(path, Net, CPU)


@pytest.mark.parametrize("version", ["2.10.0", "2.13.0+cpu", "3.0"])
def test_a_recent_torch_does(version: str) -> None:
    state_files.check_torch(version)
