"""Parses YAML that people write, with the line of every field: YAML 1.2 scalars, limited size, every mistake a `Problem`.

Scalars follow the core schema of YAML 1.2 (https://yaml.org/spec/1.2.2/#103-core-schema): `no`, `on`, `12:30` and dates
are text, only `true` and `false` are booleans. The text of each plain scalar is kept: `version: 1.10` can stay `1.10`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from torchrelay.core.errors import ModelInvalid, Problem
from torchrelay.core.text import field_name, printable

MAX_BYTES = 256 * 1024
MAX_DEPTH = 32
MAX_NODES = 20_000  # counted after aliases are expanded: the "billion laughs" end here

FieldPath = tuple[str | int, ...]

_NULL = {"", "~", "null", "Null", "NULL"}
_BOOL = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INT = re.compile(r"[-+]?(0|[1-9][0-9]{0,30})")  # 010 is 8 for some readers and 10 for others: it stays text
_BASED = re.compile(r"0o[0-7]{1,30}|0x[0-9a-fA-F]{1,30}")
_FLOAT = re.compile(r"[-+]?(\.[0-9]{1,40}|[0-9]{1,40}(\.[0-9]{0,40})?)([eE][-+]?[0-9]{1,4})?")
_SPECIAL = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_STR_TAG = "tag:yaml.org,2002:str"


@dataclass(frozen=True)
class Document:
    """A parsed file: its values, the line (from 1) of each field path and the text of plain scalars as written."""

    name: str
    value: dict[str, Any]
    lines: Mapping[FieldPath, int]
    texts: Mapping[FieldPath, str] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()

    def line(self, path: FieldPath) -> int | None:
        """The line of the field, or of the nearest field around it."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path)

    def problem(self, path: FieldPath, message: str, fix: str = "") -> Problem:
        """A problem with the field at `path`."""
        return Problem(self.name, self.line(path), field_name(path), message, fix)


@dataclass
class _Node:
    line: int
    scalar: str | None = None
    plain: bool = False
    items: list["_Node"] | None = None
    pairs: list[tuple["_Node", "_Node"]] | None = None
    key: "_Node | None" = None  # a mapping's key that waits for its value
    open: bool = False


def read_bytes(path: Path, name: str, limit: int) -> bytes:
    """The bytes of a file that people write.

    Raises:
        ModelInvalid: it is missing, unreadable, not a file or larger than `limit` bytes.
    """
    name = printable(name)
    try:
        if not path.is_file():
            what = "is not a file" if path.exists() else "does not exist"
            raise ModelInvalid([Problem(name, None, "", what)])
        with path.open("rb") as stream:
            data = stream.read(limit + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not a legal path"
        raise ModelInvalid([Problem(name, None, "", f"cannot be read: {reason}")]) from error
    if len(data) > limit:
        raise ModelInvalid([Problem(name, None, "", f"is larger than {limit} bytes")])
    return data


def decode(data: bytes, name: str) -> str:
    """UTF-8 with or without a byte order mark.

    Raises:
        ModelInvalid: it is not UTF-8; names the line of the first byte that is not.
    """
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        problem = Problem(name, line, "", f"byte 0x{data[error.start]:02x} is not UTF-8", "save the file as UTF-8")
        raise ModelInvalid([problem]) from error


def parse(data: bytes, name: str) -> Document:
    """One YAML mapping.

    Raises:
        ModelInvalid: it is not YAML, or not a mapping, or nests or expands beyond the limits. Duplicate keys are
            left in `Document.problems`, so that the rest is still checked.
    """
    name = printable(name)
    text = decode(data, name)
    try:
        root = _compose(text, name)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        problem = Problem(name, line, "", "holds a control character, which YAML forbids", "remove it")
        raise ModelInvalid([problem]) from error
    except yaml.YAMLError as error:
        raise ModelInvalid([_syntax_problem(error, text, name)]) from error
    if root is None or (root.scalar == "" and root.plain):
        raise ModelInvalid([Problem(name, 1, "", "is empty", "write `key: value` lines")])
    if root.pairs is None:
        kind = "a list" if root.items is not None else "a single value"
        raise ModelInvalid([Problem(name, root.line, "", f"is {kind}", "write `key: value` lines")])
    builder = _Builder(name)
    value = builder.build(root, ())
    return Document(name, value, builder.lines, builder.texts, tuple(builder.problems))


def _syntax_problem(error: yaml.YAMLError, text: str, name: str) -> Problem:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    line = mark.line + 1 if mark else 1
    lines = text.splitlines()
    here = lines[line - 1] if line <= len(lines) else ""
    problem = str(getattr(error, "problem", None) or error)
    if "'\\t'" in problem or here.lstrip(" ").startswith("\t"):
        return Problem(name, line, "", "a tab where YAML allows only spaces", "indent with spaces")
    context = getattr(error, "context", None)
    reason = f"{context}: {problem}" if context else problem
    return Problem(name, line, "", f"is not YAML: {printable(reason)}", "check the indentation, colons and quotes")


def _fatal(name: str, line: int, message: str, fix: str = "") -> ModelInvalid:
    return ModelInvalid([Problem(name, line, "", message, fix)])


def _compose(text: str, name: str) -> _Node | None:
    """The tree of nodes, from parser events and without recursion, so that the depth can be limited."""
    root: _Node | None = None
    stack: list[_Node] = []
    anchors: dict[str, _Node] = {}
    for count, event in enumerate(yaml.parse(text, Loader=yaml.SafeLoader)):
        line = event.start_mark.line + 1 if event.start_mark else 1
        if count > 4 * MAX_NODES:
            raise _fatal(name, line, f"holds more than {MAX_NODES} values")
        if isinstance(event, yaml.DocumentStartEvent) and root is not None:
            raise _fatal(name, line, "holds a second YAML document", "keep one, without `---`")
        if isinstance(event, (yaml.SequenceEndEvent, yaml.MappingEndEvent)):
            stack.pop().open = False
            continue
        node = _node(event, anchors, name, line)
        if node is None:
            continue
        if stack:
            _attach(stack[-1], node, name, line)
        else:
            root = node
        if isinstance(event, yaml.CollectionStartEvent):
            stack.append(node)
            if len(stack) > MAX_DEPTH:
                raise _fatal(name, line, f"nests deeper than {MAX_DEPTH} levels")
    return root


def _node(event: yaml.Event, anchors: dict[str, _Node], name: str, line: int) -> _Node | None:
    if isinstance(event, yaml.AliasEvent):
        anchor = event.anchor or ""
        target = anchors.get(anchor)
        if target is None:
            raise _fatal(name, line, f"alias *{printable(anchor, 60)} has no anchor before it")
        if target.open:
            raise _fatal(name, line, f"alias *{printable(anchor, 60)} contains itself")
        return target
    tag = getattr(event, "tag", None)
    if tag not in (None, "!", _STR_TAG):
        raise _fatal(name, line, f"tag {printable(tag, 60)} is not allowed", "remove the tag")
    if isinstance(event, yaml.ScalarEvent):
        node = _Node(line, scalar=event.value, plain=event.style is None and tag is None)
    elif isinstance(event, yaml.SequenceStartEvent):
        node = _Node(line, items=[], open=True)
    elif isinstance(event, yaml.MappingStartEvent):
        node = _Node(line, pairs=[], open=True)
    else:
        return None
    if event.anchor:
        anchors[event.anchor] = node
    return node


def _attach(parent: _Node, node: _Node, name: str, line: int) -> None:
    if parent.items is not None:
        parent.items.append(node)
    elif parent.key is not None and parent.pairs is not None:
        parent.pairs.append((parent.key, node))
        parent.key = None
    elif node.scalar is None:
        raise _fatal(name, line, "a key must be one word or quoted text", "quote the value that starts with { or [")
    else:
        parent.key = node


class _Builder:
    """Values out of nodes, aliases expanded and counted."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.lines: dict[FieldPath, int] = {(): 1}
        self.texts: dict[FieldPath, str] = {}
        self.problems: list[Problem] = []
        self._count = 0

    def build(self, node: _Node, path: FieldPath) -> Any:
        self._count += 1
        if self._count > MAX_NODES:
            raise _fatal(self.name, node.line, f"expands to more than {MAX_NODES} values", "write fewer aliases")
        if len(path) > MAX_DEPTH:
            raise _fatal(self.name, node.line, f"nests deeper than {MAX_DEPTH} levels")
        if node.items is not None:
            for index, item in enumerate(node.items):
                self.lines[(*path, index)] = item.line
            return [self.build(item, (*path, index)) for index, item in enumerate(node.items)]
        if node.pairs is not None:
            return self._mapping(node.pairs, path)
        text = node.scalar or ""
        if not node.plain:
            return text
        self.texts[path] = text
        return _resolve(text)

    def _mapping(self, pairs: list[tuple[_Node, _Node]], path: FieldPath) -> dict[str, Any]:
        value: dict[str, Any] = {}
        for key_node, value_node in pairs:
            key = key_node.scalar or ""
            here = (*path, key)
            if key in value:
                message = f"is written twice, first at line {self.lines[here]}"
                self.problems.append(Problem(self.name, key_node.line, field_name(here), message, "keep one"))
                continue
            if key == "<<" and key_node.plain:
                raise _fatal(self.name, key_node.line, "merge keys (<<) are not supported", "write the keys out")
            self.lines[here] = key_node.line
            value[key] = self.build(value_node, here)
        return value


def _resolve(text: str) -> Any:
    """A plain scalar by the core schema; a number too long to be meant stays text, and so does 010."""
    if text in _NULL:
        return None
    if text in _BOOL:
        return _BOOL[text]
    if _INT.fullmatch(text) or _BASED.fullmatch(text):
        return int(text, 0)
    if _SPECIAL.fullmatch(text):
        return float(text.lower().replace(".", ""))
    if _FLOAT.fullmatch(text) and not re.fullmatch(r"[-+]?0[0-9]+", text):
        return float(text)
    return text
