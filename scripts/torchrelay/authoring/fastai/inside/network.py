"""A learner's network as plain data: kinds of modules, their attributes, and which part is joined with which."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import utils

from torchrelay.authoring.fastai import module_kinds

_BY_CLASS = module_kinds.by_class()
_HOLDERS = {place: name for name, place in module_kinds.HOLDERS.items()}
_FOLDS: dict[str, Any] = {
    "torch.nn.utils.spectral_norm.SpectralNorm": utils.remove_spectral_norm,
    "torch.nn.utils.weight_norm.WeightNorm": utils.remove_weight_norm,
}
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
_OVERRIDES = ("forward", "__call__", "_call_impl")


def place(value: object) -> str:
    """Module and name of an object's class, as messages show it and the tables list it."""
    return f"{type(value).__module__}.{type(value).__qualname__}"


def fold(model: nn.Module) -> None:
    """Make spectral and weight norm what they come to in evaluation: one weight, without a hook."""
    for module in model.modules():
        for hook in list(module._forward_pre_hooks.values()):
            remove = _FOLDS.get(place(hook))
            if remove is not None:
                remove(module, getattr(hook, "name", "weight"))


def tensors(model: nn.Module) -> dict[str, Tensor]:
    """The state_dict without anything of fastai's types."""
    return {name: value.detach().as_subclass(Tensor).cpu().contiguous() for name, value in model.state_dict().items()}


class Description:
    """One network described; `problems` says what cannot be."""

    def __init__(self, model: nn.Module) -> None:
        self.problems: list[str] = []
        self._joins: dict[int, int] = {}  # of the U-Net at hand: id of a hook -> number of the encoder's part that it is on
        self.root = self.node("model", model)

    def node(self, path: str, module: nn.Module, *, started: bool = False) -> dict[str, Any]:
        """One module; `started` when it is a direct part of a SequentialEx."""
        self._look(path, module)
        where = place(module)
        if where == module_kinds.HOLDERS[module_kinds.UNET]:
            return self._unet(path, module)
        if where in _HOLDERS:
            return self._holder(path, module, _HOLDERS[where])
        if isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward:
            return {"kind": module_kinds.SEQUENCE, "parts": self._parts(path, module)}
        kind = _BY_CLASS.get(where)
        if kind is None:
            self.problems.append(f"{path} is a {where}")
            return {"kind": "unknown"}
        if module_kinds.KINDS[kind].needs_start and not started:
            self.problems.append(f"{path} is a {where} outside of a SequentialEx")
        return self._known(path, module, kind)

    def _look(self, path: str, module: nn.Module) -> None:
        """Refuse what changes how a module computes without being part of its class."""
        for name in _OVERRIDES:
            if name in vars(module):
                self.problems.append(f"{path} has a {name} of its own, which replaces that of {place(module)}")
        for kind in _HOOKS:
            for hook in getattr(module, kind, {}).values():
                folded = place(hook) in _FOLDS and kind == "_forward_pre_hooks"
                if not folded and id(getattr(hook, "__self__", None)) not in self._joins:
                    self.problems.append(f"{path} has a forward hook, {getattr(hook, '__qualname__', place(hook))}")

    def _parts(self, path: str, module: nn.Module, *, started: bool = False) -> list[list[Any]]:
        return [
            [name, self.node(f"{path}.{name}", part, started=started) if part is not None else None]
            for name, part in module._modules.items()
        ]

    def _holder(self, path: str, module: nn.Module, kind: str) -> dict[str, Any]:
        if kind == module_kinds.STARTED:
            return {"kind": kind, "parts": self._parts(f"{path}.layers", module.get_submodule("layers"), started=True)}
        return {"kind": kind, "parts": self._parts(path, module)}

    def _unet(self, path: str, module: nn.Module) -> dict[str, Any]:
        layers = list(module.get_submodule("layers").children())
        outer, self._joins = self._joins, {}
        for number, part in enumerate(layers[0].children()):
            for hook in part._forward_hooks.values():
                if place(owner := getattr(hook, "__self__", None)) == "fastai.callback.hook.Hook":
                    self._joins[id(owner)] = number
        skips: list[int] = []
        for number, layer in enumerate(layers):
            if place(layer) == module_kinds.KINDS["UnetBlock"].classes[0]:
                joined = self._joins.get(id(getattr(layer, "hook", None)))
                if joined is None:
                    self.problems.append(f"{path}.layers.{number} is joined with nothing: its hook is gone")
                skips.append(joined if joined is not None else 0)
        parts = self._parts(f"{path}.layers", module.get_submodule("layers"), started=True)
        self._joins = outer
        return {"kind": module_kinds.UNET, "parts": parts, "skips": skips}

    def _known(self, path: str, module: nn.Module, name: str) -> dict[str, Any]:
        kind = module_kinds.KINDS[name]
        args = {}
        for arg, asked in kind.args.items():
            value = _plain(getattr(module, arg, asked.default if asked.default is not module_kinds.REQUIRED else None), asked)
            if asked.only and value not in asked.only:
                self.problems.append(f"{path} is a {place(module)} with {arg}={value!r}")
            args[arg] = value
        if name == "Flatten" and getattr(module, "full", False):
            self.problems.append(f"{path} is a {place(module)} with full=True")
        found: dict[str, Any] = {"kind": name, "args": args}
        if kind.parts:
            wanted = {part.rstrip("?") for part in kind.parts}
            found["parts"] = [part for part in self._parts(path, module) if part[0] in wanted]
            others = set(module._modules) - wanted
            self.problems += [f"{path} is a {place(module)} with a part {other}" for other in sorted(others)]
        return found


def _plain(value: Any, asked: module_kinds.Arg) -> object:
    """A module's attribute as JSON has it; a parameter says only that it is there."""
    if asked.what == module_kinds.FLAG:
        return bool(value) if isinstance(value, (bool, int)) else value is not None
    if isinstance(value, (tuple, list)):
        return [int(item) for item in value]
    return value
