"""The network as the options want it: loaded onto its device, in its precision and memory format, compiled."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from torchrelay_handlers.network import loading
from torchrelay_handlers.network.loading import Network
from torchrelay_handlers.network.weights_format import WeightsError


def make_network(
    path: Path | None, init_function: Callable[..., nn.Module] | None, init_kwargs: Mapping[str, Any], device: torch.device,
    options: Mapping[str, Any], weights_format: str | None = None,
) -> Network:  # fmt: skip
    """The network, by the options precision, channels_last and compile.

    Raises:
        WeightsError: see `loading.load`.
        RuntimeError: an option does not work here.
    """
    function = (lambda: init_function(**init_kwargs)) if init_function is not None else None
    if path is not None:
        network = loading.load(path, function, device, weights_format)
    elif function is not None:
        network = loading.ready(function(), device)
    else:
        raise WeightsError("there are neither weights nor an init_function: nothing to serve")
    model, dtype = network.call, network.dtype
    changeable = isinstance(model, nn.Module)
    asked = [name for name in ("channels_last", "compile") if options[name]]
    asked += ["precision"] if options["precision"] != "float32" else []
    if asked and network.compiled:
        raise RuntimeError(f"handler_args.{asked[0]}: the weights are a compiled package; set it where the package is made")
    if options["precision"] != "float32" and changeable:
        precise = getattr(torch, options["precision"])
        model.to(precise)  # type: ignore[attr-defined] # a module: `changeable`
        dtype = precise if dtype is not None else None
    if options["channels_last"] and changeable:
        model.to(memory_format=torch.channels_last)  # type: ignore[attr-defined] # a module: `changeable`
    if options["compile"]:
        refuse_without_compiler(device)
        model = torch.compile(model)
    return Network(model, dtype)


def refuse_without_compiler(device: torch.device, which: Callable[[str], str | None] = shutil.which) -> None:
    """torch.compile on a CPU writes C++: without a compiler every request would fail.

    Raises:
        RuntimeError: there is none.
    """
    if device.type == "cpu" and not any(map(which, ("g++", "c++", "clang++"))):
        raise RuntimeError(
            "handler_args.compile: torch.compile needs a C++ compiler here, and the image has none; compile where you train, with "
            "torch._inductor.aoti_compile_and_package(torch.export.export(model, inputs)), and serve the .pt2 file that it writes"
        )
