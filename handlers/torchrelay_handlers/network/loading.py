"""Loads weights; the bytes of a file decide its format, never its name. A format that executes code must be declared.

Pickles are read with `weights_only=True` alone, and by torch 2.10 or later: before that the restricted unpickler had
holes (CVE-2025-32434 up to 2.5.1, CVE-2026-24747 before 2.10). TorchScript and torch.export files are code: they run
what their author compiled, so their origin has to be trusted like the handler's.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from torchrelay_handlers.bodies.tensors import own_dtype
from torchrelay_handlers.network import zip_records
from torchrelay_handlers.network.exported import load_program
from torchrelay_handlers.network.state_files import one_line, read_state
from torchrelay_handlers.network.weights_format import COMPILED, EXPORTED, TORCHSCRIPT, WeightsError, format_problem, kind_of


@dataclass(frozen=True, slots=True)
class Network:
    """The function to call with a batch, and the dtype of its input (None: integers stay integers)."""

    call: Callable[..., Any]
    dtype: torch.dtype | None
    compiled: bool = False  # its precision and memory format cannot be changed


def load(
    path: Path, init_function: Callable[[], nn.Module] | None, device: torch.device, weights_format: str | None = None
) -> Network:
    """The network on `device`, in evaluation mode, without gradients. Without a `weights_format`, only data is loaded.

    Raises:
        WeightsError: the file is unreadable, executes code and is not declared so, is not what is declared, does not fit the
            network, or needs an init_function that is not there.
    """
    if not path.is_file():
        raise WeightsError(f"the weights {path.name} are not in {path.parent}")
    if problem := format_problem(path, path.name, weights_format):
        raise WeightsError(". ".join(problem))
    kind = kind_of(path)
    if kind == TORCHSCRIPT:
        return ready(_script(path, device), device)
    if kind == COMPILED:
        return Network(_package(path, device), torch.float32, compiled=True)  # it has no input dtype: handler_args' `dtype` wins
    if kind == EXPORTED:
        return _exported(path, device)
    if init_function is None:
        raise WeightsError(f"{path.name} is a {kind}: a model file with an init_function that makes the network is needed")
    return ready(fill(init_function, read_state(path, kind), path.name), device)


def _script(path: Path, device: torch.device) -> nn.Module:
    _require_records(path)
    try:
        return torch.jit.load(str(path), map_location=device)  # type: ignore[no-untyped-call,no-any-return] # torch's own
    except Exception as error:  # torch's own RuntimeErrors, with C++ frames in them
        raise WeightsError(f"{path.name} cannot be read as TorchScript: {one_line(error)}; save or upload it again") from None


def _package(path: Path, device: torch.device) -> Callable[..., Any]:
    _require_records(path)
    try:
        return torch._inductor.aoti_load_package(str(path), device_index=device.index if device.type == "cuda" else -1)
    except Exception as error:  # the linker's and torch's own
        raise WeightsError(
            f"{path.name} cannot be loaded as a compiled package: {one_line(error)}; compile it again, for this device and torch"
        ) from None


def _require_records(path: Path) -> None:
    try:
        zip_records.read(path)
    except zip_records.DamagedZip as error:
        raise WeightsError(f"{path.name} is a damaged file: {error}; save or upload it again") from None


def _exported(path: Path, device: torch.device) -> Network:
    program = load_program(path)
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
