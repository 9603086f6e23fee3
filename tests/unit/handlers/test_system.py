"""`system` of model-config.yaml: memory cap and extra source files, read when the model is loaded."""

import importlib
import io
import os
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.unit.handlers.support import JSON, FakeContext, as_torchserve
from torchrelay_handlers import system
from torchrelay_handlers.adapters.torchserve import Service
from torchrelay_handlers.network import device
from torchrelay_handlers.network.network import refuse_without_compiler


@pytest.fixture(autouse=True)
def clean_imports() -> Iterator[None]:
    modules, path = set(sys.modules), list(sys.path)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def tar(path: Path, files: dict[str, bytes], **special: Any) -> Path:
    with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for name, kind in special.items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
    return path


def test_both_keys_are_read() -> None:
    config = {"minWorkers": 1, "system": {"extraFiles": "test.tar.gz", "maxGPUMemory": 500}}
    assert system.read(config) == system.System(500, ("test.tar.gz",))
    assert system.read({"system": {"extraFiles": "a.tar, b.zip"}}) == system.System(None, ("a.tar", "b.zip"))
    assert [system.read(config) for config in (None, {}, {"system": None}, "x")] == [system.System()] * 4


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"maxGpuMemory": 5}, "system.maxGpuMemory is not known; did you mean maxGPUMemory"),
        ({"zzz": 5}, "known: maxGPUMemory, extraFiles"),
        ({"maxGPUMemory": 0}, "positive number"),
        ({"maxGPUMemory": "500"}, "positive number"),
        ({"maxGPUMemory": True}, "positive number"),
        ({"extraFiles": [1]}, "extraFiles must name"),
        ({"extraFiles": ["", "a"]}, "extraFiles must name"),
        (3, "must hold keys"),
    ],
)
def test_mistakes_are_named(values: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        system.read({"system": values})


@pytest.mark.parametrize("name", ["x.tar", "x.tar.gz", "x.zip"])
def test_archives_are_unpacked_with_their_structure(tmp_path: Path, name: str) -> None:
    files = {"model.py": b"A = 1", "package/inner/part.py": b"B = 2"}
    if name.endswith("zip"):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            for inner, data in files.items():
                archive.writestr(inner, data)
    else:
        tar(tmp_path / name, files)
    for _ in range(2):  # every worker does it
        system.unpack((name,), tmp_path)
    unpacked = {p.relative_to(tmp_path).as_posix(): p.read_bytes() for p in tmp_path.rglob("*.*") if p.is_file() and p.name != name}
    assert unpacked == files


@pytest.mark.parametrize("name", ["../out.py", "/out.py", "a/../../out.py", "a\\..\\b.py", "."])
def test_names_that_reach_out_are_refused(tmp_path: Path, name: str) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    tar(inside / "x.tar", {name: b"x"})
    with pytest.raises(RuntimeError, match="reaches out"):
        system.unpack(("x.tar",), inside)
    assert [p.name for p in tmp_path.rglob("*.py")] == []


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused(tmp_path: Path, kind: bytes) -> None:
    tar(tmp_path / "x.tar", {}, link=kind)
    with pytest.raises(RuntimeError, match="link or a device"):
        system.unpack(("x.tar",), tmp_path)
    info = zipfile.ZipInfo("link")
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(RuntimeError, match="link or a device"):
        system.unpack(("x.zip",), tmp_path)


def test_too_much_damaged_and_missing_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tar(tmp_path / "x.tar", {"a": b"12345", "b": b"67890"})
    monkeypatch.setattr(system, "_MOST_BYTES", 9)
    with pytest.raises(RuntimeError, match="holds more than"):
        system.unpack(("x.tar",), tmp_path)
    (tmp_path / "y.tar").write_bytes(b"nonsense")
    for name, message in (("y.tar", "y.tar: "), ("z.tar", "z.tar is not in the model")):
        with pytest.raises(RuntimeError, match=message):
            system.unpack((name,), tmp_path)


def test_a_folder_that_cannot_be_written_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tar(tmp_path / "x.tar", {"their_extra_module.py": b"A = 7"})
    monkeypatch.setattr(os, "access", lambda *_: False)
    system.unpack(("x.tar",), tmp_path)
    assert not (tmp_path / "their_extra_module.py").exists()
    their_extra_module = importlib.import_module("their_extra_module")

    assert their_extra_module.A == 7


def test_torchserve_hands_it_over_before_the_handler_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    capped: list[tuple[torch.device, int | None]] = []
    monkeypatch.setattr(device, "cap_memory", lambda where, megabytes: capped.append((where, megabytes)))
    (tmp_path / "torchrelay.json").write_text('{"handler": "their_own.py"}')
    (tmp_path / "their_own.py").write_text(
        "import torch\nfrom their_network import factor\ndef init_function(): return torch.nn.Identity()\n"
        "def postprocess(output): return output.item() * factor\n"
    )
    tar(tmp_path / "x.tar.gz", {"their_network.py": b"factor = 3"})
    context = FakeContext(str(tmp_path), [JSON])
    context.model_yaml_config = {"system": {"extraFiles": "x.tar.gz", "maxGPUMemory": 500}}  # type: ignore[attr-defined] # TorchServe sets it on its context
    assert Service()(as_torchserve([b"[2]"], JSON), context) == [b"6"]
    assert capped[0] == (torch.device("cpu"), 500)


def test_compiling_needs_a_compiler() -> None:
    with pytest.raises(RuntimeError, match="needs a C"):
        refuse_without_compiler(torch.device("cpu"), lambda _: None)
    refuse_without_compiler(torch.device("cpu"), lambda name: name if name == "c++" else None)
    refuse_without_compiler(torch.device("cuda"), lambda _: None)


def test_a_tar_that_ends_in_a_zip_file_is_a_tar(tmp_path: Path) -> None:
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("inner.py", "")
    tar(tmp_path / "a.tar", {"data.zip": inner.getvalue()})
    system.unpack(("a.tar",), tmp_path)
    assert (tmp_path / "data.zip").read_bytes() == inner.getvalue()
    assert not (tmp_path / "inner.py").exists()
