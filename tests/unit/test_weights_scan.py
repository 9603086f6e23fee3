"""Weights files are scanned before anything loads them: hostile ones are refused by name and run nothing, benign ones pass."""

import io
import pickle
import struct
import zipfile
import zlib
from collections import Counter, OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from torchrelay.core.errors import WeightsMissing
from torchrelay.weights.pickle_scan import TORCH
from torchrelay.weights.scan import refuse_hostile

# Functions that run code, read or write files, open connections, or give access to any other function.
CALLS = [
    "os.system",
    "posix.system",
    "nt.system",
    "posix.popen",
    "os.execv",
    "os.spawnl",
    "subprocess.Popen",
    "subprocess.call",
    "subprocess.check_output",
    "pty.spawn",
    "builtins.exec",
    "builtins.eval",
    "builtins.compile",
    "builtins.getattr",
    "builtins.__import__",
    "builtins.open",
    "builtins.input",
    "builtins.breakpoint",
    "importlib.import_module",
    "importlib.reload",
    "runpy.run_path",
    "runpy.run_module",
    "code.interact",
    "pickle.loads",
    "_pickle.loads",
    "marshal.loads",
    "dill.loads",
    "joblib.load",
    "shelve.open",
    "ctypes.CDLL",
    "ctypes.util.find_library",
    "socket.create_connection",
    "urllib.request.urlopen",
    "shutil.rmtree",
    "pathlib.Path.unlink",
    "operator.attrgetter",
    "operator.methodcaller",
    "functools.partial",
    "types.FunctionType",
    "types.CodeType",
    "timeit.timeit",
    "cProfile.run",
    "pdb.run",
    "bdb.Bdb",
    "doctest.testmod",
    "pydoc.pipepager",
    "logging.config.fileConfig",
    "webbrowser.open",
    "asyncio.run",
    "torch.load",
    "torch.hub.load",
    "torch.jit.load",
    "torch.storage._load_from_bytes",
    "torch.ops.load_library",
    "torch.serialization.load",
    "torch.utils.cpp_extension.load",
    "torch.distributed.rpc.rpc_sync",
    "torch._dynamo.config",
    "numpy.load",
    "numpy.memmap",
    "numpy.fromfile",
    "numpy.testing._private.utils.runstring",
    "pip._internal.main",
    "idlelib.run.Executive",
    "setuptools.setup",
    "yaml.unsafe_load",
    "collections.namedtuple",
]


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def by_global(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode() + b"(" + text("argument") + b"tR."


def by_inst(module: str, name: str) -> bytes:
    return b"(" + text("argument") + f"i{module}\n{name}\n.".encode()


def by_stack(module: str, name: str) -> bytes:
    return b"\x80\x04" + text(module) + text(name) + b"\x93(" + text("argument") + b"tR."


def by_stored(module: str, name: str) -> bytes:
    """Both names are stored, dropped, and fetched again."""
    stored = text(module) + b"q\x07" + b"0" + text(name) + b"q\x09" + b"0"
    return b"\x80\x04" + stored + b"h\x07" + b"h\x09" + b"\x93(" + text("argument") + b"tR."


def by_old_names(module: str, name: str) -> bytes:
    """Python 2's name of a module, which protocol 2 still means."""
    old = {"builtins": "__builtin__", "subprocess": "commands"}.get(module, module)
    return b"\x80\x02" + f"c{old}\n{name}\n".encode() + b"(" + text("argument") + b"tR."


STYLES = {"global": by_global, "inst": by_inst, "stack": by_stack, "stored": by_stored, "old names": by_old_names}


def zipped(payload: bytes, name: str = "data.pkl", more: dict[str, bytes] | None = None) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for record, content in {f"archive/{name}": payload, "archive/version": b"3\n", **(more or {})}.items():
            archive.writestr(record, content)
    return buffer.getvalue()


def legacy(payload: bytes) -> bytes:
    magic = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)
    return magic + pickle.dumps(1001, 2) + pickle.dumps({"little_endian": True}, 2) + payload + pickle.dumps([], 2)


HOSTILE = {
    f"{call} by {style} in {form}": wrap(make(*call.rpartition(".")[::2]))
    for call in CALLS
    for style, make in STYLES.items()
    for form, wrap in {"zip": zipped, "legacy": legacy}.items()
    if form == "zip" or style in ("global", "stack")
}


def refused(folder: Path, content: bytes) -> str:
    path = folder / "model.pt"
    path.write_bytes(content)
    with pytest.raises(WeightsMissing) as error:
        refuse_hostile("model.pt", path)
    assert "state_dict" in error.value.fix
    return error.value.message


def test_there_are_enough_of_them() -> None:
    assert len(HOSTILE) > 400
    assert len(set(HOSTILE.values())) > 400


@pytest.mark.parametrize("call", CALLS)
def test_a_pickle_that_names_more_than_data_is_refused_by_that_name(call: str, tmp_path: Path) -> None:
    for name, content in HOSTILE.items():
        if name.startswith(f"{call} by "):
            message = refused(tmp_path, content)
            assert call.rpartition(".")[2] in message, name


@pytest.mark.parametrize("style", STYLES)
def test_control_an_unrestricted_loader_runs_it(style: str, tmp_path: Path) -> None:
    """The canary: the same bytes, with a harmless program, do run; scanning them does not."""
    canary = tmp_path / "canary"
    program = f"open({str(canary)!r}, 'w').close()"
    payload = STYLES[style]("builtins", "exec").replace(text("argument"), text(program))
    refused(tmp_path, zipped(payload))
    assert not canary.exists()
    pickle.loads(payload)  # noqa: S301 -- the control itself
    assert canary.exists()


BROKEN = {
    "an extension": b"\x80\x02\x82\x01(tR.",
    "a name that is a number": b"\x80\x04K\x01" + text("system") + b"\x93.",
    "a name out of a tuple": b"\x80\x04" + text("os") + text("system") + b"\x86" + b"\x93.",
    "an empty stack": b"\x80\x04\x93.",
    "no end": b"\x80\x02}",
    "an unknown opcode": b"\x80\x02\xff.",
    "a mark that is missing": b"\x80\x02t.",
    "an unknown memo": b"\x80\x02h\x05.",
    "a huge claim": b"\x80\x04\x8d" + struct.pack("<Q", 1 << 40) + b"x.",
    "nothing": b"",
    "text": b"hello",
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_cannot_be_read_is_refused(name: str, tmp_path: Path) -> None:
    refused(tmp_path, zipped(BROKEN[name]))


def test_a_pickle_under_another_name_is_found(tmp_path: Path) -> None:
    hidden = by_stack("os", "system")
    for name in ("archive/extra.pkl", "archive/byteorder", "archive/notes.txt", "data.pkl"):
        assert "os.system" in refused(tmp_path, zipped(pickle.dumps({}, 2), more={name: hidden})), name


def test_a_bomb_is_refused_by_its_total(tmp_path: Path) -> None:
    one = zlib.compressobj(9, zlib.DEFLATED, -15)
    zeros = bytes(300 << 20)
    packed = one.compress(zeros) + one.flush()
    body, directory = b"", b""
    for number in range(20):
        name = f"archive/data/{number}".encode()
        head = struct.pack("<5H3I2H", 20, 0, 8, 0, 33, zlib.crc32(zeros), len(packed), len(zeros), len(name), 0)
        directory += b"PK\x01\x02" + struct.pack("<H", 20) + head + struct.pack("<3H2I", 0, 0, 0, 0, len(body)) + name
        body += b"PK\x03\x04" + head + name + packed
    end = b"PK\x05\x06" + struct.pack("<4H2IH", 0, 0, 20, 20, len(directory), len(body), 0)
    assert "zip bomb" in refused(tmp_path, body + directory + end)


def state() -> dict[str, Any]:
    return {"weight": torch.randn(3, 4), "bias": torch.zeros(3)}


BENIGN: dict[str, Callable[[], Any]] = {
    "a state_dict": lambda: nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)).state_dict(),
    "a plain dict": state,
    "nested": lambda: {"state_dict": state(), "epoch": 3, "loss": 0.5, "name": "x", "done": True, "none": None},
    "an optimiser": lambda: torch.optim.Adam([nn.Parameter(torch.ones(2))]).state_dict(),
    "parameters": lambda: {"weight": nn.Parameter(torch.ones(2, 2))},
    "an ordered dict": lambda: OrderedDict(state()),
    "a counter and a set": lambda: {"counter": Counter("abc"), "set": {1, 2}, **state()},
    "numpy scalars": lambda: {"accuracy": np.float64(0.5), "epoch": np.int64(3), **state()},
    "numpy arrays": lambda: {"mean": np.ones(3, "<f4"), **state()},
    "a shape": lambda: {"size": torch.Size([1, 2]), "dtype": torch.float16, "device": torch.device("cpu"), **state()},
    "half precision": lambda: {name: value.half() for name, value in state().items()},
    "bfloat16": lambda: {name: value.bfloat16() for name, value in state().items()},
    "integers": lambda: {f"i{bits}": torch.ones(2, dtype=getattr(torch, f"int{bits}")) for bits in (8, 16, 32, 64)},
    "booleans": lambda: {"mask": torch.tensor([True, False])},
    "complex": lambda: {"spectrum": torch.ones(2, dtype=torch.complex64)},
    "sparse": lambda: {"table": torch.eye(3).to_sparse()},
    "quantised": lambda: {"weight": torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)},
    "bytes that look like a pickle": lambda: {
        "weight": torch.frombuffer(bytearray(b"\x80\x04cos\nsystem\n." * 8), dtype=torch.uint8)
    },
    "names that look like code": lambda: {"os.system": torch.ones(1), "builtins.eval": torch.ones(1)},
}


@pytest.mark.parametrize("form", ["zip", "legacy", "protocol 3", "protocol 4", "protocol 5", "deflated"])
@pytest.mark.parametrize("name", BENIGN)
def test_real_weights_pass(name: str, form: str, tmp_path: Path) -> None:
    path, options = tmp_path / "model.pt", {}
    if form == "legacy":
        options["_use_new_zipfile_serialization"] = False
    if form.startswith("protocol"):
        options["pickle_protocol"] = int(form[-1])  # type: ignore[assignment] # torch.save takes both
    if (name, form) == ("numpy arrays", "protocol 5"):
        name = "numpy scalars"  # numpy writes arrays in another way there, which the handler library does not read either
    torch.save(BENIGN[name](), path, **options)
    if form == "deflated":
        with zipfile.ZipFile(path) as archive:
            records = {info.filename: archive.read(info) for info in archive.infolist()}
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for record, content in records.items():
                archive.writestr(record, content)
    refuse_hostile("model.pt", path)


def test_a_file_without_checksums_passes_and_a_wrong_one_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(state(), path)
    finally:
        torch.serialization.set_crc32_options(before)
    refuse_hostile("model.pt", path)
    content = zipped(pickle.dumps({"a": 1}, 2))
    path.write_bytes(content[: content.index(b"PK\x01\x02")])
    with pytest.raises(WeightsMissing, match="damaged zip file") as error:
        refuse_hostile("model.pt", path)
    assert error.value.fix == "save or upload it again"


def test_other_formats_are_left_to_their_loaders(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    for content in (b"anything", pickle.dumps({"a": 1}), b"\x08\x00\x00\x00\x00\x00\x00\x00{}      "):
        path.write_bytes(content)
        refuse_hostile("model.bin", path)


def test_the_allowed_names_are_torchs_own() -> None:
    from torch._weights_only_unpickler import _get_allowed_globals

    assert set(_get_allowed_globals()) == TORCH
