"""Writes model.py from the (untrusted) description of a network. Only entries of `module_kinds`' tables get into the file."""

import keyword
import math
import re
from collections.abc import Mapping
from typing import Any

from torchrelay.authoring.fastai import module_kinds
from torchrelay.authoring.fastai.module_classes import PARTS, with_needs

MAX_DEPTH = 40
MAX_MODULES = 20_000
MAX_COUNT = 1 << 24
WIDTH = 120
LONGEST_TITLE = 300
LONGEST_NUMBER = 1 << 53  # beyond it a float does not hold every whole number
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,60}|[0-9]{1,5}")

HEAD = '''"""{title}

Written by torchrelay export-fastai: pure PyTorch, with the same module names in the same order as the learner.
"""

{imports}
'''
FOOT = '''

def init_function() -> nn.Module:
    """float32 [N, {channels}, {height}, {width}] -> float32 {answers}; the weights are loaded into the network later."""
    return {network}
'''


class DescriptionInvalid(ValueError):
    """The description does not follow the tables."""


class Writer:
    """Writes one network as an expression; `used` are the classes that it needs."""

    def __init__(self) -> None:
        self.used: set[str] = set()
        self.modules = 0

    def expression(self, node: object, depth: int = 0, *, started: bool = False) -> list[str]:
        """Return the lines of one module; the first is not indented.

        Raises:
            DescriptionInvalid: the description does not follow the tables.
        """
        self.modules += 1
        if depth > MAX_DEPTH or self.modules > MAX_MODULES:
            raise DescriptionInvalid("the network is too deep or too large")
        if not isinstance(node, dict) or not isinstance(node.get("kind"), str):
            raise DescriptionInvalid("a module is not described")
        kind = node["kind"]
        if kind in (module_kinds.SEQUENCE, module_kinds.STARTED, module_kinds.UNET, module_kinds.DENSE, module_kinds.PRESIZED):
            return self._holder(kind, node, depth)
        if kind not in module_kinds.KINDS:
            raise DescriptionInvalid(f"a module has an unknown kind, {kind[:40]!r}")
        known = module_kinds.KINDS[kind]
        if known.needs_start and not started:
            raise DescriptionInvalid(f"{kind} is outside a SequentialEx")
        args = _arguments(kind, known.args, node.get("args"))
        parts = self._parts(node, depth) if known.parts else []
        if [name for name, _ in parts if name + "?" not in known.parts and name not in known.parts] or not {
            part for part in known.parts if not part.endswith("?")
        } <= {name for name, _ in parts}:
            raise DescriptionInvalid(f"{kind} does not have the parts that it must have")
        args += [_keyed(name, part) for name, part in parts]
        args += [["downsample=None"]] if "downsample?" in known.parts and "downsample" not in dict(parts) else []
        return self._call(known.written, args)

    def _holder(self, kind: str, node: Mapping[str, Any], depth: int) -> list[str]:
        parts = self._parts(node, depth, started=kind in (module_kinds.STARTED, module_kinds.UNET))
        numbered = [name for name, _ in parts] == [str(number) for number in range(len(parts))]
        values = [part for _, part in parts]
        if kind == module_kinds.SEQUENCE and not numbered:
            pairs = [_joined(f'("{name}", ', part, ")") for name, part in parts]
            return self._call("nn.Sequential", [self._call("OrderedDict", [_listed(pairs)])])
        if kind == module_kinds.SEQUENCE:
            return self._call("nn.Sequential", values)
        if kind == module_kinds.DENSE:
            return self._call("DenseBlock", [_keyed(name, part) for name, part in parts])
        if kind == module_kinds.PRESIZED:
            if [name for name, _ in parts] != ["network"]:
                raise DescriptionInvalid("a resized network is not described")
            return self._call("Presized", [[_size(node.get("size"), 2)], *values])
        if not numbered:
            raise DescriptionInvalid(f"the layers of a {kind} are not numbered")
        if kind == module_kinds.UNET:
            return self._call("DynamicUnet", [[repr(_skips(node))], *values])
        return self._call("SequentialEx", values)

    def _parts(self, node: Mapping[str, Any], depth: int, *, started: bool = False) -> list[tuple[str, list[str]]]:
        parts = node.get("parts")
        if not isinstance(parts, list) or not all(isinstance(part, list) and len(part) == 2 for part in parts):
            raise DescriptionInvalid("the parts of a module are not described")
        for name, _ in parts:
            if not isinstance(name, str) or not _NAME.fullmatch(name):
                raise DescriptionInvalid("a part of a module has an illegal name")
        if len({name for name, _ in parts}) != len(parts):
            raise DescriptionInvalid("two parts of a module have one name")
        if any(part is None for _, part in parts) and node["kind"] not in module_kinds.KINDS:
            raise DescriptionInvalid("a part of a module is missing")
        return [(name, ["None"] if part is None else self.expression(part, depth + 1, started=started)) for name, part in parts]

    def _call(self, function: str, args: list[list[str]]) -> list[str]:
        if function in PARTS:
            self.used.add(function)
        if function == "OrderedDict":
            self.used.add(function)
        flat = f"{function}({', '.join(arg[0] for arg in args)})"
        if all(len(arg) == 1 for arg in args) and len(flat) <= WIDTH - 40:
            return [flat]
        lines = [f"{function}("]
        for arg in args:
            lines += [f"    {line}" for line in arg[:-1]] + [f"    {arg[-1]},"]
        return [*lines, ")"]


def model_file(network: object, title: str, shape: tuple[int, int, int], answers: str) -> str:
    """Return the text of model.py; of `title`, which is untrusted, letters, digits and a few signs are kept.

    `shape` is [channels, height, width] of one picture, `answers` the shape of the output.

    Raises:
        DescriptionInvalid: see `Writer.expression`.
    """
    writer = Writer()
    expression = "\n    ".join(writer.expression(network))
    classes = with_needs(writer.used & PARTS.keys())
    text = "".join(f"\n{PARTS[name]}" for name in classes)
    body = text + FOOT.format(channels=shape[0], height=shape[1], width=shape[2], answers=answers, network=expression)
    imports = ["from collections import OrderedDict\n"] if "OrderedDict" in writer.used else []
    imports += ["import torch"] if "torch." in body.replace("import torch", "") else []
    imports += ["import torch.nn.functional as F"] if "F.interpolate" in body else []
    imports += ["from torch import Tensor, nn" if "Tensor" in body else "from torch import nn"]
    return HEAD.format(title=_words(title), imports="\n".join(imports)) + body


def _words(text: str) -> str:
    """Return text that cannot end a docstring, escape a character in it or mislead its reader."""
    return re.sub(r"[^A-Za-z0-9 .,_()+-]", "_", text[:LONGEST_TITLE])


def _keyed(name: str, part: list[str]) -> list[str]:
    if not name.isidentifier() or keyword.iskeyword(name):
        raise DescriptionInvalid("the name of a part of a module is not a name in Python")
    return _joined(f"{name}=", part, "")


def _joined(before: str, lines: list[str], after: str) -> list[str]:
    whole = [before + lines[0], *lines[1:]]
    return [*whole[:-1], whole[-1] + after]


def _listed(items: list[list[str]]) -> list[str]:
    return ["[", *(f"    {line}{',' if line is item[-1] else ''}" for item in items for line in item), "]"]


def _arguments(kind: str, known: Mapping[str, module_kinds.Arg], described: object) -> list[list[str]]:
    if not isinstance(described, dict) or described.keys() != known.keys():
        if not (described is None and not known):
            raise DescriptionInvalid(f"the attributes of a {kind} are not described")
        return []
    written = []
    for name, rule in known.items():
        text = _value(kind, name, rule, described[name])
        if rule.default is module_kinds.REQUIRED:
            written.append([text])
        elif text != _value(kind, name, rule, rule.default):
            written.append([f"{name}={text}"])
    return written


def _value(kind: str, name: str, rule: module_kinds.Arg, value: object) -> str:
    legal = {
        module_kinds.FLAG: isinstance(value, bool),
        module_kinds.COUNT: _whole(value),
        module_kinds.NUMBER: _number(value),
        module_kinds.WORD: isinstance(value, str) and value in rule.only,
        module_kinds.SIZE: _whole(value) or (isinstance(value, list) and 1 <= len(value) <= 4 and all(map(_whole, value))),
    }[rule.what]
    if not legal or (rule.only and value not in rule.only):
        raise DescriptionInvalid(f"a {kind} has an illegal {name}")
    if rule.what == module_kinds.WORD:
        return f'"{value}"'
    return _size(value) if rule.what == module_kinds.SIZE else repr(value)


def _number(value: object) -> bool:
    return (type(value) is int and abs(value) <= LONGEST_NUMBER) or (type(value) is float and math.isfinite(value))


def _whole(value: object) -> bool:
    return type(value) is int and 0 <= value <= MAX_COUNT


def _size(value: object, length: int = 0) -> str:
    """Return an integer if all sides are equal, otherwise a tuple; with exactly `length` sides if that is given."""
    if length and not (isinstance(value, list) and len(value) == length and all(map(_whole, value))):
        raise DescriptionInvalid("a size is not described")
    if isinstance(value, list):
        return (
            repr(value[0]) if len(set(value)) == 1 and not length else f"({', '.join(map(repr, value))}{',' * (len(value) == 1)})"
        )
    return repr(value)


def _skips(node: Mapping[str, Any]) -> list[int]:
    skips = node.get("skips")
    blocks = [part for _, part in node["parts"] if isinstance(part, dict) and part.get("kind") == "UnetBlock"]
    if not isinstance(skips, list) or not all(map(_whole, skips)) or len(skips) != len(blocks):
        raise DescriptionInvalid("the joins of a U-Net are not described")
    return skips
