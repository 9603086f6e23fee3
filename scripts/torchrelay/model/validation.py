"""Turns pydantic's errors into `Problem`s: the line, the field, the allowed values and the probable intention."""

import re
import types
import typing
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from torchrelay.core.errors import Problem
from torchrelay.core.text import meant, nearest, printable, shown
from torchrelay.model.yaml_document import Document, FieldPath

_EXPECTED = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "finite_number": "a finite number",
}
_BOUNDS = {
    "greater_than_equal": ("ge", "at least"),
    "greater_than": ("gt", "greater than"),
    "less_than_equal": ("le", "at most"),
    "less_than": ("lt", "less than"),
}


def explain(
    error: ValidationError, document: Document, model: type[BaseModel], hints: Mapping[str, str], at: FieldPath = ()
) -> list[Problem]:
    """Every error of one validation, in the order of the file.

    `hints` adds a fix per field (`batch.delay_ms`); `at` is the path of the validated part in the document.
    """
    problems = []
    for detail in error.errors(include_url=False):
        inner = tuple(part for part in detail["loc"] if part != "[key]")
        path = _existing(document, (*at, *inner))
        message, fix = _words(detail["type"], detail, inner, model)
        hint = hints.get(".".join(str(part) for part in inner if isinstance(part, str)), "")
        problems.append(document.problem(path, message, fix or hint))
    return sorted(problems, key=lambda problem: problem.line or 0)


def fields_of(model: type[BaseModel]) -> list[str]:
    """The keys a file may write for this model."""
    return [info.alias or name for name, info in model.model_fields.items()]


def _existing(document: Document, path: FieldPath) -> FieldPath:
    """The path without a last part that is missing in the file because of the short form (`weights: URI`)."""
    value: Any = document.value
    for index, part in enumerate(path):
        if isinstance(value, str):
            return path[:index]
        try:
            value = value[part]
        except (KeyError, IndexError, TypeError):
            return path
    return path


def _words(kind: str, detail: Mapping[str, Any], path: FieldPath, model: type[BaseModel]) -> tuple[str, str]:
    value, context = detail["input"], detail.get("ctx", {})
    if kind == "missing":
        return "required key is missing", ""
    if kind == "extra_forbidden":
        owner = _model_at(model, path[:-1])
        return "unknown key", meant(str(path[-1]), fields_of(owner) if owner else [])
    if kind == "literal_error":
        choices = re.findall(r"'([^']*)'", context["expected"])
        near = nearest(str(value), choices)
        return f"must be {context['expected']}, not {shown(value)}", f"did you mean {near}?" if near else ""
    if kind in _BOUNDS:
        key, words = _BOUNDS[kind]
        return f"must be {words} {context[key]:g}, not {shown(value)}", ""
    if kind in _EXPECTED:
        return f"expected {_EXPECTED[kind]}, got {_got(value)}", _retype(kind, value)
    return printable(detail["msg"].removeprefix("Value error, "), 400), context.get("fix", "")


def _got(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, str):
        return f"the text {shown(value)}"
    if isinstance(value, (dict, list)):
        return "a mapping" if isinstance(value, dict) else "a list"
    return shown(value)


def _retype(kind: str, value: Any) -> str:
    if not isinstance(value, str):
        return ""
    if kind == "bool_type" and value.lower() in {"yes", "no", "on", "off", "y", "n"}:
        return f"write {'true' if value.lower() in {'yes', 'on', 'y'} else 'false'}"
    if kind in {"int_type", "float_type"} and re.fullmatch(r"0[0-7]+", value):
        return f"write {value.lstrip('0') or '0'} without leading zeros"
    if kind in {"int_type", "float_type"} and re.fullmatch(r"-?[0-9]+(\.[0-9]+)?", value):
        return "remove the quotes"
    return ""


def _model_at(model: type[BaseModel], path: FieldPath) -> type[BaseModel] | None:
    """The model that owns the keys at `path`."""
    here: type[BaseModel] | None = model
    for part in path:
        if here is None:
            return None
        annotation = next((info.annotation for name, info in here.model_fields.items() if part in (name, info.alias)), None)
        here = _model_in(annotation)
    return here


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if typing.get_origin(annotation) in (typing.Union, types.UnionType, typing.Annotated):
        return next((model for part in typing.get_args(annotation) if (model := _model_in(part))), None)
    return None
