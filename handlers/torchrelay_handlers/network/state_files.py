"""Reads a state_dict as data: restricted pickles and safetensors, with reasons that name the record or global at fault."""

import io
import pickletools
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor, _weights_only_unpickler

from torchrelay_handlers.network import safetensors_header, zip_records
from torchrelay_handlers.network.weights_format import SAFETENSORS, STATE_DICT, WeightsError

_OLDEST_TORCH = (2, 10)
_NESTED = ("state_dict", "model_state_dict", "model", "weights", "net")
_GLOBAL = re.compile(r"GLOBAL (?P<name>\S+) (?:was not an allowed|whose module)")
_OPCODE = re.compile(r"Unsupported operand (?P<code>\d+)")
_NOT_MADE = re.compile(r"(?:Can only|Trying to call|Only persistent_load)[^\n]*")
_NEW_OPCODES = {ord(code.code): code.proto for code in pickletools.opcodes if code.proto > 3}
_CONVERT = (
    "Where the file was made, and nowhere else, save the tensors alone:\n"
    '    torch.save(model.state_dict(), "model.pt")\n'
    "    # or, as a file that cannot hold anything else:\n"
    "    from safetensors.torch import save_file\n"
    '    save_file(model.state_dict(), "model.safetensors")'
)


class _TooShort(ValueError):
    """A record has not as many bytes as its tensor needs."""


class _Left:
    """Stands for a numpy scalar or array of a checkpoint: only tensors are used, so numpy's own functions need not run."""

    def __init__(self, *_parts: object) -> None: ...

    def __setstate__(self, _state: object) -> None: ...


# numpy 1 and 2 write different modules. torch calls _Left wherever a pickle names one of these.
_NUMPY: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    (_Left, f"numpy.{name}")
    for name in (
        *("ndarray", "dtype", "core.multiarray.scalar", "core.multiarray._reconstruct"),
        *("_core.multiarray.scalar", "_core.multiarray._reconstruct"),
    )
]


def read_state(path: Path, kind: str) -> dict[str, Tensor]:
    """The state_dict in `path`, on the CPU and memory mapped where its bytes allow it: workers then share its pages.

    Raises:
        WeightsError: it is damaged, holds more than tensors, or is a pickle and torch is older than 2.10.
    """
    if kind == SAFETENSORS:
        return _read_safetensors(path)
    if kind != STATE_DICT:
        return _plain_state(load_data(path, path.name), path.name)
    try:
        records = zip_records.read(path)
    except zip_records.DamagedZip as error:
        raise WeightsError(f"{path.name} is a damaged file: {error}; save or upload it again") from None
    _require_storages(path, records)
    mapped = all(record.mappable for record in records)
    return _plain_state(load_data(path, path.name, mmap=mapped), path.name)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        safetensors_header.require_sound(path)
    except safetensors_header.DamagedHeader as error:
        raise WeightsError(f"{path.name} is a damaged safetensors file: {error}; save or upload it again") from None
    try:
        from safetensors.torch import load_file  # type: ignore[import-not-found, unused-ignore] # noqa: PLC0415 - optional; install_packages may install it after this import
    except ImportError:
        raise WeightsError(f"{path.name} is a safetensors file: add safetensors to requirements.txt") from None
    try:
        return dict(load_file(str(path)))
    except Exception as error:  # SafetensorError, and whatever torch raises for a dtype that it lacks
        raise WeightsError(f"{path.name} cannot be read by safetensors: {one_line(error)}") from None


def load_data(source: Path | BinaryIO, name: str, *, mmap: bool = False) -> Any:
    """What torch.save wrote into `source`, read by the restricted unpickler alone; `name` is for messages.

    Raises:
        WeightsError: it is damaged or holds more than data; or torch is older than 2.10.
    """
    with _restricted(name):
        return torch.load(source, map_location="cpu", weights_only=True, mmap=mmap)


@contextmanager
def _restricted(name: str) -> Iterator[None]:
    check_torch(torch.__version__)
    try:
        with torch.serialization.safe_globals(_NUMPY), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected pickle protocol", UserWarning)
            yield
    except Exception as error:  # torch raises RuntimeError, UnpicklingError, EOFError, KeyError, ... for damaged files
        fix = "" if (reason := refusal(str(error))) else "; save or upload it again"
        raise WeightsError(f"{name} {reason or f'is a damaged file: {one_line(error)}'}{fix}") from None


def refusal(text: str) -> str:
    """Why the restricted unpickler refused a pickle; "" when it did not, and the file is damaged. Never torch's own advice."""
    if match := _GLOBAL.search(text):
        return f"is refused: it asks for {match['name']}, which is not data. {_CONVERT}"
    if match := _OPCODE.search(text):
        code = int(match["code"])
        if code in _NEW_OPCODES:
            return (
                "is written with pickle protocol 4 or 5, and torch's restricted unpickler reads 2 and 3 alone. "
                f"Leave `pickle_protocol` out when you save. {_CONVERT}"
            )
        return f"is refused: pickle opcode {code} is not data. {_CONVERT}"
    if match := _NOT_MADE.search(text):
        return f"is refused: {match[0].strip().rstrip('.')}. {_CONVERT}"
    return f"holds a whole model or other objects. {_CONVERT}" if "Weights only load failed" in text else ""


def one_line(error: Exception) -> str:
    """The first line of an error, or its class; never longer than one reads."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def _require_storages(path: Path, records: list[zip_records.Record]) -> None:
    """Each storage must be as long as its record: torch reads on into the next one, or beyond its memory.

    The pickle is read once more for this, by torch's own restricted unpickler, with storages on the meta device: they hold nothing.
    """
    folder = records[0].name.partition("/")[0] if records else ""
    sizes = {record.name: record.size for record in records}
    if (pickled := next((record for record in records if record.name == f"{folder}/data.pkl"), None)) is None:
        raise WeightsError(f"{path.name}: its records are not all in one folder; zip the folder itself, not what is in it")

    def storage(saved: tuple[Any, ...]) -> Any:
        _, kind, key, _, count = saved
        dtype = torch.uint8 if kind is torch.UntypedStorage else kind.dtype
        needed, name = count * dtype.itemsize, f"{folder}/data/{key}"
        if sizes.get(name, 0) != needed:
            raise _TooShort(f"record {name} has {sizes.get(name, 0)} bytes, and its tensor needs {needed}")
        return torch.storage.TypedStorage(wrap_storage=torch.UntypedStorage(needed, device="meta"), dtype=dtype, _internal=True)  # type: ignore[no-untyped-call, unused-ignore] # torch's own

    with _restricted(path.name):
        content = io.BytesIO(zip_records.content(path, pickled))
        _StorageCheck(content, storage).load()  # type: ignore[no-untyped-call, unused-ignore] # torch's own


class _StorageCheck(_weights_only_unpickler.Unpickler):
    """torch's restricted unpickler whose storages come from a function."""

    def __init__(self, file: BinaryIO, storage: Callable[[tuple[Any, ...]], Any]) -> None:
        super().__init__(file, encoding="utf-8")
        self._storage = storage

    def persistent_load(self, pid: Any) -> Any:
        return self._storage(pid)


def check_torch(version: str) -> None:
    """Refuse to read a pickle with a torch whose weights_only unpickler is known to be unsafe."""
    numbers = re.match(r"(\d+)\.(\d+)", version)
    if numbers is None or (int(numbers[1]), int(numbers[2])) < _OLDEST_TORCH:
        raise WeightsError(
            f"torch {version} reads pickled weights unsafely (CVE-2026-24747): use torch 2.10 or later, or save as safetensors"
        )


def _plain_state(state: object, name: str) -> dict[str, Tensor]:
    if isinstance(state, Mapping) and not all(isinstance(value, Tensor) for value in state.values()):
        inner = [state[key] for key in _NESTED if isinstance(state.get(key), Mapping)]
        if len(inner) == 1:
            state = inner[0]
    if not isinstance(state, Mapping) or not state:
        raise WeightsError(f"{name} holds a {type(state).__name__}, not a state_dict; save model.state_dict() with torch.save")
    tensors = {str(key): value for key, value in state.items() if isinstance(value, Tensor)}
    if all(key.startswith("module.") for key in tensors):  # saved from nn.DataParallel
        tensors = {key.removeprefix("module."): value for key, value in tensors.items()}
    return tensors
