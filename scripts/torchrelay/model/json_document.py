"""Parses JSON that people write, with the line of the outer fields: for samples, as `yaml_document` for model.yaml."""

import json
import re
from typing import Any

from torchrelay.core.errors import ModelInvalid, Problem
from torchrelay.core.text import field_name, printable
from torchrelay.model.yaml_document import Document, FieldPath, decode

MAX_DEPTH = 64
_LINES_DEPTH = 3  # our fields end at $.expect.json: below it the nearest field's line is used

_TOKEN = re.compile(r'"(?:[^"\\\x00-\x1f]|\\.)*"|[{}\[\],:]|\n')


def parse(data: bytes, name: str) -> Document:
    """One JSON object. `NaN` and `Infinity` are allowed, because Python models return them.

    Raises:
        ModelInvalid: it is not JSON, not an object, or nests deeper than `MAX_DEPTH`. Duplicate keys are left in
            `Document.problems`.
    """
    name = printable(name)
    text = decode(data, name)
    value = parse_value(text, name)
    if not isinstance(value, dict):
        raise ModelInvalid([Problem(name, 1, "", "is not a JSON object", 'write {"request": ..., "expect": ...}')])
    lines, problems = _lines(text, name)
    return Document(name, value, lines, {}, tuple(problems))


def parse_value(text: str, name: str) -> Any:
    """Any JSON value.

    Raises:
        ModelInvalid: it is not JSON or nests deeper than `MAX_DEPTH`.
    """
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        message = f"is not JSON: {printable(error.msg)} at column {error.colno}"
        raise ModelInvalid([Problem(printable(name), error.lineno, "", message)]) from error
    except (RecursionError, ValueError) as error:  # ValueError: an integer of more than 4300 digits
        what = "nests too deeply" if isinstance(error, RecursionError) else "holds a number too long to read"
        raise ModelInvalid([Problem(printable(name), 1, "", what)]) from error
    if _deeper(value, MAX_DEPTH):
        raise ModelInvalid([Problem(printable(name), 1, "", f"nests deeper than {MAX_DEPTH} levels")])
    return value


def _deeper(value: Any, limit: int) -> bool:
    level = [value]
    for _ in range(limit + 1):
        level = [
            child
            for node in level
            if isinstance(node, (dict, list))
            for child in (node.values() if isinstance(node, dict) else node)
        ]
        if not level:
            return False
    return True


def _lines(text: str, name: str) -> tuple[dict[FieldPath, int], list[Problem]]:
    """Lines and duplicate keys of a text that is known to be JSON: one walk over its parts."""
    lines: dict[FieldPath, int] = {(): 1}
    problems: list[Problem] = []
    line = 1
    stack: list[tuple[bool, FieldPath, dict[str, int]]] = []  # is it an object, its path, its keys with their lines
    path: FieldPath = ()
    key_next = False
    for match in _TOKEN.finditer(text):
        part = match[0]
        if part == "\n":
            line += 1
        elif part in "{[":
            stack.append((part == "{", path, {}))
            key_next = part == "{"
            if part == "[":
                path = (*path, 0)
        elif part in "}]":
            path = stack.pop()[1]
            key_next = False
        elif part == ",":
            is_object, outer, _ = stack[-1]
            key_next = is_object
            if not is_object and isinstance(path[-1], int):
                path = (*outer, path[-1] + 1)
        elif key_next and part != ":":
            key_next = False
            _, outer, keys = stack[-1]
            key = json.loads(part)
            path = (*outer, key)
            if key in keys:
                message = f"is written twice, first at line {keys[key]}"
                problems.append(Problem(name, line, field_name(path), message, "keep one"))
            keys[key] = line
            if len(path) <= _LINES_DEPTH:
                lines.setdefault(path, line)
    return lines, problems
