"""The published schemas in schema/ equal those that the code generates, and editors agree with check."""

import json
from typing import Any

import jsonschema
import pytest
import yaml

from torchrelay.cli.schema import rendered
from torchrelay.core.paths import ROOT

SCHEMAS = rendered()


def validator(name: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(json.loads(SCHEMAS[name]))


@pytest.mark.parametrize("name", SCHEMAS)
def test_no_drift(name: str) -> None:
    committed = (ROOT / "schema" / name).read_text(encoding="utf-8")
    assert committed == SCHEMAS[name], "run `python -m torchrelay.cli.schema schema`"
    jsonschema.Draft202012Validator.check_schema(json.loads(committed))


def test_every_field_is_described() -> None:
    schema = json.loads(SCHEMAS["model.schema.json"])
    parts = [schema, *schema["$defs"].values()]
    assert [name for part in parts for name, field in part["properties"].items() if "description" not in field] == []


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*/model.yaml")), ids=lambda path: path.parent.name)
def test_examples_are_valid(path: Any) -> None:
    validator("model.schema.json").validate(yaml.safe_load(path.read_text()))
    for sample in path.parent.glob("samples/*.json"):
        validator("sample.schema.json").validate(json.loads(sample.read_text()))


@pytest.mark.parametrize(
    ("change", "valid"),
    [
        ({}, True),
        ({"weights": {"uri": "model.pt", "sha256": "ab" * 32}}, True),
        ({"targets": {"kubernetes": None, "lambda": {"memory": 1}}}, True),
        ({"environment": {"A": 1, "B": True, "C": "x"}}, True),
        ({"nmae": "x"}, False),
        ({"name": "../x"}, False),
        ({"name": None}, False),
        ({"batch": {"delay_ms": 0}}, False),
        ({"device": "tpu"}, False),
        ({"weights": {"url": "x"}}, False),
    ],
)
def test_model_schema(change: dict[str, Any], valid: bool) -> None:
    value = {"name": "digits", "weights": "model.pt", "handler": "tensor"} | change
    assert validator("model.schema.json").is_valid(value) is valid
