"""Damaged and hostile weights files: the right tensors or one clear reason, and never code. torch itself writes every file."""

import json
import os
import struct
import traceback
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from torchrelay_handlers.network import safetensors_header, state_files, zip_records
from torchrelay_handlers.network.weights_format import LEGACY, SAFETENSORS, STATE_DICT, WeightsError, kind_of


@pytest.fixture
def state() -> dict[str, Tensor]:
    torch.manual_seed(5)
    return {"first": torch.randn(40, 3), "second": torch.arange(50), "empty": torch.zeros(0), "third": torch.randn(7)}


@pytest.fixture
def path(tmp_path: Path, state: dict[str, Tensor]) -> Path:
    torch.save(state, tmp_path / "model.pt")
    return tmp_path / "model.pt"


def rezip(path: Path, compression: int = zipfile.ZIP_DEFLATED, changes: dict[str, bytes] | None = None) -> None:
    """Write the file's records again, `changes` by the last part of their names."""
    with zipfile.ZipFile(path) as archive:
        records = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in records.items():
            archive.writestr(name, (changes or {}).get(name.rpartition("/")[2], content))


def check_equal(path: Path, state: dict[str, Tensor]) -> dict[str, Tensor]:
    read = state_files.read_state(path, kind_of(path))
    assert read.keys() == state.keys()
    assert all(torch.equal(read[name], tensor) for name, tensor in state.items())
    return read


def offset_of(path: Path, ending: str) -> int:
    return next(record.offset for record in zip_records.read(path) if record.name.endswith(ending))


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED])
def test_a_zip_that_was_packed_again_loads_with_the_same_tensors(path: Path, state: dict[str, Tensor], compression: int) -> None:
    rezip(path, compression)
    check_equal(path, state)
    zip_records.require_contents(path)


def test_a_zip_as_torch_writes_it_is_mapped(path: Path, state: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    load = torch.load

    def load_and_note(*args: Any, **rest: Any) -> Any:
        asked.append(rest["mmap"])
        return load(*args, **rest)

    monkeypatch.setattr(torch, "load", load_and_note)
    check_equal(path, state)
    assert asked == [True]
    rezip(path)
    check_equal(path, state)
    assert asked[1:] == [False]


def test_a_file_without_checksums_loads(path: Path, state: dict[str, Tensor]) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(state, path)
    finally:
        torch.serialization.set_crc32_options(True)
    check_equal(path, state)
    zip_records.require_contents(path)


def test_tied_tensors_and_views_load(path: Path) -> None:
    whole = torch.arange(12.0)
    state = {"whole": whole, "part": whole[3:9].view(2, 3), "again": whole}
    torch.save(state, path)
    read = check_equal(path, state)
    assert read["again"].data_ptr() == read["whole"].data_ptr()


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED])
def test_a_storage_that_is_too_short_is_refused(path: Path, compression: int, state: dict[str, Tensor]) -> None:
    rezip(path, compression, {"0": state["first"].numpy().tobytes()[:-16]})
    with pytest.raises(WeightsError, match=r"damaged file: record model/data/0 has 464 bytes, and its tensor needs 480"):
        state_files.read_state(path, STATE_DICT)


def test_swapped_storages_are_refused(path: Path, state: dict[str, Tensor]) -> None:
    rezip(path, changes={"0": state["second"].numpy().tobytes(), "1": state["first"].numpy().tobytes()})
    with pytest.raises(WeightsError, match="damaged file: record model/data/0 has"):
        state_files.read_state(path, STATE_DICT)


def test_changed_bytes_have_a_wrong_checksum(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[offset_of(path, "data/0")] ^= 1
    path.write_bytes(content)
    zip_records.read(path)  # its structure is right
    with pytest.raises(zip_records.DamagedZip, match=r"record 'model/data/0' have changed: its checksum is wrong"):
        zip_records.require_contents(path)


def test_changed_compressed_bytes_have_a_wrong_checksum(path: Path) -> None:
    rezip(path)
    content = bytearray(path.read_bytes())
    content[offset_of(path, "data/0") + 30] ^= 255
    path.write_bytes(content)
    with pytest.raises(zip_records.DamagedZip, match="its checksum is wrong"):
        zip_records.require_contents(path)


def directory_entry(content: bytearray, ending: bytes) -> int:
    """The place of a record's entry in the directory at the end."""
    start = content.index(b"PK\x01\x02")
    return content.rindex(b"PK\x01\x02", start, content.index(ending, start) + 1)


def move_into_the_next(content: bytearray) -> None:
    entry = directory_entry(content, b"data/0")
    content[entry + 20 : entry + 28] = struct.pack("<II", 4096, 4096)
    local = struct.unpack("<I", content[entry + 42 : entry + 46])[0]
    content[local + 18 : local + 26] = struct.pack("<II", 4096, 4096)


def point_elsewhere(content: bytearray) -> None:
    entry = directory_entry(content, b"data/1")
    content[entry + 42 : entry + 46] = struct.pack("<I", 7)


def disagree(content: bytearray) -> None:
    content[8:10] = struct.pack("<H", zipfile.ZIP_DEFLATED)  # the local header of the first record


def rename(content: bytearray) -> None:
    name = content.index(b"data/1")
    content[name : name + 6] = b"data/9"


def encrypt(content: bytearray) -> None:
    entry = directory_entry(content, b"data/0")
    content[entry + 8] |= 1


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (move_into_the_next, "reaches into what follows it"),
        (point_elsewhere, "has no header where the directory says"),
        (disagree, "disagrees with the directory"),
        (rename, "disagrees with the directory"),
        (encrypt, "is encrypted"),
        (lambda content: content.extend(b"trailing"), "bytes after its end"),
    ],
)
def test_a_zip_whose_records_are_not_where_it_says_is_refused(path: Path, damage: Any, reason: str) -> None:
    rezip(path, zipfile.ZIP_STORED)
    content = bytearray(path.read_bytes())
    damage(content)
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=rf"^model\.pt is a damaged file: .*{reason}"):
        state_files.read_state(path, STATE_DICT)


def test_records_that_differ_only_in_case_are_refused(path: Path) -> None:
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("model/DATA.pkl", b"")
    with pytest.raises(WeightsError, match=r"'model/DATA\.pkl' is there twice, or differs from another only in case"):
        state_files.read_state(path, STATE_DICT)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(("share", "protocol"), [(0.3, 2), (0.9, 2), (0.99, 3)])
def test_a_file_that_was_cut_short_is_refused(
    path: Path, state: dict[str, Tensor], zipped: bool, share: float, protocol: int
) -> None:
    torch.save(state, path, _use_new_zipfile_serialization=zipped, pickle_protocol=protocol)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(WeightsError, match=r"^model\.pt is (a )?damaged") as refused:
        state_files.read_state(path, kind_of(path))
    assert "\n" not in str(refused.value)


class Runs:
    """Unpickled, it calls `function`, which would leave a canary file."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.parts = function, arguments

    def __reduce__(self) -> Any:
        return self.parts


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    ("function", "name"),
    [(os.system, "posix.system"), (eval, "eval"), (torch.hub.load, "torch.hub.load"), (np.savetxt, "numpy.savetxt")],
)
def test_a_hostile_pickle_is_refused_by_the_name_of_what_it_asks_for(
    path: Path, tmp_path: Path, zipped: bool, function: Any, name: str
) -> None:
    torch.save({"a": torch.ones(2), "b": Runs(function, f"touch {tmp_path}/canary")}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(WeightsError) as refused:
        state_files.read_state(path, kind_of(path))
    first, *lines = str(refused.value).splitlines()
    assert first.startswith(f"model.pt is refused: it asks for {name}, which is not data.")
    assert '    torch.save(model.state_dict(), "model.pt")' in lines
    assert "    from safetensors.torch import save_file" in lines
    log = "".join(traceback.format_exception(refused.value))  # what a server's log shows
    assert not [word for word in ("weights_only=False", "add_safe_globals", "Re-running") if word in log]
    assert not (tmp_path / "canary").exists()


def test_the_canary_of_these_tests_sings(path: Path, tmp_path: Path) -> None:
    torch.save({"b": Runs(os.system, f"touch {tmp_path}/canary")}, path)
    torch.load(path, weights_only=False)
    assert (tmp_path / "canary").exists()


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_each_pickle_protocol_loads_or_is_explained(path: Path, state: dict[str, Tensor], zipped: bool, protocol: int) -> None:
    torch.save(state, path, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    if protocol < 4:
        check_equal(path, state)
        return
    with pytest.raises(WeightsError, match=r"protocol 4 or 5.*\n    torch\.save\(model\.state_dict\(\)"):
        state_files.read_state(path, kind_of(path))


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("module", ["numpy._core", "numpy.core"])
def test_numpy_values_beside_the_tensors_are_left_aside(path: Path, state: dict[str, Tensor], zipped: bool, module: str) -> None:
    extra = {"loss": np.float64(0.5), "step": np.int64(3), "done": np.bool_(True), "mean": np.ones((2, 3)), "kind": np.dtype("f4")}
    torch.save({"state_dict": state, **extra}, path, _use_new_zipfile_serialization=zipped)
    if zipped and module == "numpy.core":  # as numpy 1 wrote it
        with zipfile.ZipFile(path) as archive:
            pickled = archive.read("model/data.pkl")
        assert b"numpy._core" in pickled
        rezip(path, zipfile.ZIP_STORED, {"data.pkl": pickled.replace(b"numpy._core", b"numpy.core")})
    check_equal(path, state)


def test_numpy_that_hides_a_call_is_refused(path: Path, tmp_path: Path) -> None:
    hidden = np.array([Runs(os.system, f"touch {tmp_path}/canary")], dtype=object)
    torch.save({"a": torch.ones(1), "b": hidden}, path)
    with pytest.raises(WeightsError, match=r"posix\.system"):
        state_files.read_state(path, STATE_DICT)
    assert not (tmp_path / "canary").exists()


def safetensors(header: Any, data: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(begin: int, end: int, shape: list[int], dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (safetensors({"a": entry(0, 8, [2])}, b"\0" * 7), "cut short, perhaps"),
        (safetensors({"a": entry(0, 8, [2])}, b"\0" * 12), "its tensors take 8 bytes, and the file has 12"),
        (safetensors({"a": entry(0, 8, [2]), "b": entry(4, 12, [2])}, b"\0" * 12), "'b' begins at byte 4, and the one before"),
        (safetensors({"a": entry(0, 8, [3])}, b"\0" * 8), "'a' has a shape that does not fit its bytes"),
        (safetensors({"a": entry(-8, 0, [2])}, b""), "'a' has a shape that does not fit its bytes"),
        (safetensors({"a": {"dtype": "F32"}}, b""), "'a' has no dtype, shape and two data_offsets"),
        (safetensors(b'{"a": 1, "a": 2}', b""), "a name is there twice"),
        (safetensors(b"{broken}", b""), "not readable JSON"),
        (safetensors(b"{" + b"\xff" * 9, b""), "not readable JSON"),
    ],
)
def test_a_damaged_safetensors_file_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    assert kind_of(path) == SAFETENSORS
    with pytest.raises(WeightsError, match=rf"^model\.safetensors is a damaged safetensors file: .*{reason}"):
        state_files.read_state(path, SAFETENSORS)


def test_a_sound_safetensors_header_passes(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    header = {"__metadata__": {"format": "pt"}, "b": entry(8, 10, [1], "BF16"), "a": entry(0, 8, [2]), "none": entry(10, 10, [0])}
    path.write_bytes(safetensors(header, b"\0" * 10))
    safetensors_header.require_sound(path)


def test_the_legacy_format_loads(path: Path, state: dict[str, Tensor]) -> None:
    torch.save(state, path, _use_new_zipfile_serialization=False)
    assert kind_of(path) == LEGACY
    check_equal(path, state)
