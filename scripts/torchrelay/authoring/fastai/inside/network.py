"""Describes a learner's network as plain data: the kinds of modules, their attributes, and the joins between parts."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import utils

from torchrelay.authoring.fastai import module_kinds

_BY_CLASS = module_kinds.by_class()
_HOLDERS = {path: name for name, path in module_kinds.HOLDERS.items()}
_FOLDS: dict[str, Any] = {
    "torch.nn.utils.spectral_norm.SpectralNorm": utils.remove_spectral_norm,
    "torch.nn.utils.weight_norm.WeightNorm": utils.remove_weight_norm,
}
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
_OVERRIDES = ("forward", "__call__", "_call_impl")


def class_name(value: object) -> str:
    """Return the module and name of an object's class, as messages show them and the tables list them."""
    return f"{type(value).__module__}.{type(value).__qualname__}"


def fold(model: nn.Module) -> None:
    """Replace spectral and weight norm by their result in evaluation: one weight, without a hook."""
    for module in model.modules():
        for hook in list(module._forward_pre_hooks.values()):
            remove = _FOLDS.get(class_name(hook))
            if remove is not None:
                remove(module, getattr(hook, "name", "weight"))


def tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return the state_dict without fastai's types."""
    return {name: value.detach().as_subclass(Tensor).cpu().contiguous() for name, value in model.state_dict().items()}


class Description:
    """The description of one network; `problems` lists the modules that cannot be described."""

    def __init__(self, model: nn.Module) -> None:
        self.problems: list[str] = []
        self._joins: dict[int, int] = {}  # for the current U-Net: id of a hook -> number of the encoder part that it belongs to
        self.root = self.node("model", model)

    def node(self, path: str, module: nn.Module, *, started: bool = False) -> dict[str, Any]:
        """Describe one module; `started` when it is a direct part of a SequentialEx."""
        self._find_overrides(path, module)
        name = class_name(module)
        if name == module_kinds.HOLDERS[module_kinds.UNET]:
            return self._unet(path, module)
        if name in _HOLDERS:
            return self._holder(path, module, _HOLDERS[name])
        if isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward:
            return {"kind": module_kinds.SEQUENCE, "parts": self._parts(path, module)}
        kind = _BY_CLASS.get(name)
        if kind is None:
            self.problems.append(f"{path} is a {name}")
            return {"kind": "unknown"}
        if module_kinds.KINDS[kind].needs_start and not started:
            self.problems.append(f"{path} is a {name} outside a SequentialEx")
        return self._known(path, module, kind)

    def _find_overrides(self, path: str, module: nn.Module) -> None:
        """Report methods and hooks of a single module that change what its class computes."""
        for name in _OVERRIDES:
            if name in vars(module):
                self.problems.append(f"{path} has its own {name}, which replaces that of {class_name(module)}")
        for kind in _HOOKS:
            for hook in getattr(module, kind, {}).values():
                folded = class_name(hook) in _FOLDS and kind == "_forward_pre_hooks"
                if not folded and id(getattr(hook, "__self__", None)) not in self._joins:
                    self.problems.append(f"{path} has a forward hook, {getattr(hook, '__qualname__', class_name(hook))}")

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
                if class_name(owner := getattr(hook, "__self__", None)) == "fastai.callback.hook.Hook":
                    self._joins[id(owner)] = number
        skips: list[int] = []
        for number, layer in enumerate(layers):
            if class_name(layer) == module_kinds.KINDS["UnetBlock"].classes[0]:
                joined = self._joins.get(id(getattr(layer, "hook", None)))
                if joined is None:
                    self.problems.append(f"{path}.layers.{number} is not joined with anything: its hook is missing")
                skips.append(joined if joined is not None else 0)
        parts = self._parts(f"{path}.layers", module.get_submodule("layers"), started=True)
        self._joins = outer
        return {"kind": module_kinds.UNET, "parts": parts, "skips": skips}

    def _known(self, path: str, module: nn.Module, name: str) -> dict[str, Any]:
        kind = module_kinds.KINDS[name]
        args = {}
        for arg, rule in kind.args.items():
            value = _plain(getattr(module, arg, rule.default if rule.default is not module_kinds.REQUIRED else None), rule)
            if rule.only and value not in rule.only:
                self.problems.append(f"{path} is a {class_name(module)} with {arg}={value!r}")
            args[arg] = value
        if name == "Flatten" and getattr(module, "full", False):
            self.problems.append(f"{path} is a {class_name(module)} with full=True")
        node: dict[str, Any] = {"kind": name, "args": args}
        if kind.parts:
            known = {part.rstrip("?") for part in kind.parts}
            node["parts"] = [part for part in self._parts(path, module) if part[0] in known]
            others = set(module._modules) - known
            self.problems += [f"{path} is a {class_name(module)} with a part {other}" for other in sorted(others)]
        return node


def _plain(value: Any, rule: module_kinds.Arg) -> object:
    """Return a module's attribute as JSON data; a parameter only as True."""
    if rule.what == module_kinds.FLAG:
        return bool(value) if isinstance(value, (bool, int)) else value is not None
    if isinstance(value, (tuple, list)):
        return [int(item) for item in value]
    return value
