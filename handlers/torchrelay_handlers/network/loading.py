"""Loads weights; the bytes of a file decide its format, never its name.

Pickles are read with `weights_only=True` alone, and by torch 2.10 or later: before that the restricted unpickler had
holes (CVE-2025-32434 up to 2.5.1, CVE-2026-24747 before 2.10). TorchScript and torch.export files are code: they run
what their author compiled, so their origin has to be trusted like the handler's.
"""

import re
import struct
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from torchrelay_handlers.bodies.tensors import own_dtype

STATE_DICT, LEGACY, SAFETENSORS, TORCHSCRIPT, EXPORTED = "state_dict", "legacy state_dict", "safetensors", "TorchScript", ".pt2"
COMPILED = "compiled .pt2"
_LEGACY_MAGIC = b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19"  # torch/serialization.py MAGIC_NUMBER, as pickle's LONG1
_OLDEST_TORCH = (2, 10)
_NESTED = ("state_dict", "model_state_dict", "model", "weights", "net")


class WeightsError(RuntimeError):
    """The weights cannot be loaded; the message says why and what to do. A RuntimeError, so that TorchServe logs it."""


def kind_of(path: Path) -> str:
    """Which of the six formats `path` is.

    Raises:
        WeightsError: it is none of them.
    """
    with path.open("rb") as file:
        head = file.read(512)
    if head.startswith(b"PK\x03\x04"):
        return _kind_of_zip(path)
    if len(head) > 8 and head[8:9] == b"{" and 2 <= struct.unpack("<Q", head[:8])[0] <= path.stat().st_size - 8:
        return SAFETENSORS
    if head.startswith(b"\x80") and _LEGACY_MAGIC in head[:32]:
        return LEGACY
    if head.startswith(b"version https://git-lfs"):
        raise WeightsError(f"{path.name} is a Git LFS pointer, not the weights; run git lfs pull")
    if head.lstrip()[:1] == b"<":
        raise WeightsError(f"{path.name} is a web page, not weights; look at where it was downloaded from")
    if not head:
        raise WeightsError(f"{path.name} is empty")
    raise WeightsError(
        f"{path.name} is not a weights file of torch or safetensors (it starts with {head[:8].hex(' ')}); "
        "save model.state_dict() with torch.save"
    )


def _kind_of_zip(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile as error:
        raise WeightsError(f"{path.name} is a damaged file, cut short perhaps: {error}") from None
    inner = {name.partition("/")[2] for name in names} | set(names)
    if any(name.startswith("data/aotinductor/") for name in inner):
        return COMPILED
    if "archive_format" in inner or "serialized_exported_program.json" in inner:
        return EXPORTED
    if "constants.pkl" in inner or any(name.startswith("code/") for name in inner):
        return TORCHSCRIPT
    if "data.pkl" in inner:
        return STATE_DICT
    raise WeightsError(f"{path.name} is a zip file, but not one that torch.save writes; save model.state_dict() with torch.save")


@dataclass(frozen=True, slots=True)
class Network:
    """The function to call with a batch, and the dtype of its input (None: integers stay integers)."""

    call: Callable[..., Any]
    dtype: torch.dtype | None
    compiled: bool = False  # its precision and memory format cannot be changed


def load(path: Path, init_function: Callable[[], nn.Module] | None, device: torch.device) -> Network:
    """The network on `device`, in evaluation mode, without gradients.

    Raises:
        WeightsError: the file is unreadable, does not fit the network, or needs an init_function that is not there.
    """
    if not path.is_file():
        raise WeightsError(f"the weights {path.name} are not in {path.parent}")
    kind = kind_of(path)
    if kind == TORCHSCRIPT:
        return ready(torch.jit.load(str(path), map_location=device), device)  # type: ignore[no-untyped-call] # torch's own
    if kind == COMPILED:
        compiled = torch._inductor.aoti_load_package(str(path), device_index=device.index if device.type == "cuda" else -1)
        return Network(compiled, torch.float32, compiled=True)  # it does not say its inputs' dtype: `dtype` in handler_args wins
    if kind == EXPORTED:
        return _exported(path, device)
    if init_function is None:
        raise WeightsError(f"{path.name} is a {kind}: a model file with an init_function that makes the network is needed")
    return ready(fill(init_function, read_state(path, kind), path.name), device)


def _exported(path: Path, device: torch.device) -> Network:
    program = torch.export.load(str(path))
    tensors = [item for item in (program.example_inputs or ((),))[0] if isinstance(item, Tensor)]
    dtype = next((tensor.dtype for tensor in tensors if tensor.is_floating_point()), None)
    if device.type != "cpu":
        from torch.export.passes import move_to_device_pass  # noqa: PLC0415 - takes a second to import, and only GPUs need it

        program = move_to_device_pass(program, device)
    return Network(program.module(), dtype)  # in the mode that it was exported in: eval() is not supported on it


def ready(model: nn.Module, device: torch.device) -> Network:
    """`model` on `device`, in evaluation mode, without gradients."""
    for parameter in model.parameters():  # TorchScript modules lack requires_grad_
        parameter.requires_grad_(False)
    return Network(model.to(device).eval(), own_dtype(model))


def read_state(path: Path, kind: str) -> dict[str, Tensor]:
    """The state_dict in `path`, on the CPU and memory mapped where torch can: workers then share its pages.

    Raises:
        WeightsError: it is damaged, holds more than tensors, or is a pickle and torch is older than 2.10.
    """
    if kind == SAFETENSORS:
        try:
            from safetensors.torch import load_file  # type: ignore[import-not-found, unused-ignore] # noqa: PLC0415 - optional; install_packages may install it after this import
        except ImportError:
            raise WeightsError(f"{path.name} is a safetensors file: add safetensors to requirements.txt") from None
        return dict(load_file(str(path)))
    check_torch(torch.__version__)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True if kind == STATE_DICT else None)
    except Exception as error:  # torch raises RuntimeError, UnpicklingError, EOFError, KeyError, ... for damaged files
        first_line = str(error).partition("\n")[0]
        raise WeightsError(
            f"{path.name} cannot be read as weights alone: {first_line}\n"
            "It may hold a whole model or other objects, or be damaged; save model.state_dict() with torch.save."
        ) from error
    return _plain_state(state, path.name)


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


class _SkipInit(TorchFunctionMode):
    """Leaves parameters as allocated where torch.nn.init would fill them: a strict load overwrites each one anyway.

    Filling 1 GiB of weights with random numbers takes longer than reading them.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__module__", None) == "torch.nn.init":
            target = args[0] if args else (kwargs or {}).get("tensor")
            if isinstance(target, nn.Parameter):
                return target
        return func(*args, **(kwargs or {}))


def fill(init_function: Callable[[], nn.Module], state: dict[str, Tensor], name: str) -> nn.Module:
    """The network that `init_function` makes, with `state` in it, strictly: every name and shape must agree.

    Raises:
        WeightsError: naming all missing, unexpected and misshapen entries.
    """
    with _SkipInit():
        model = init_function()
    if not isinstance(model, nn.Module):
        raise WeightsError(f"init_function returned a {type(model).__name__}; it must return a torch.nn.Module")
    own = model.state_dict()
    wrong = [f"  missing in the file: {key} {list(own[key].shape)}" for key in own if key not in state]
    wrong += [f"  not in the network: {key} {list(state[key].shape)}" for key in state if key not in own]
    wrong += [
        f"  {key}: {list(state[key].shape)} in the file, {list(own[key].shape)} in the network"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    if wrong:
        raise WeightsError(f"{name} does not fit the network that init_function makes:\n" + "\n".join(wrong))
    model.load_state_dict({key: state[key].to(own[key].dtype) for key in own}, strict=True, assign=True)
    return model
