"""YAML as people write it: the value of each scalar, the line of each field, and the traps of YAML 1.1."""

import math
from typing import Any

import pytest

from tests import messages
from tests.errors import fails
from torchrelay.core.errors import ModelInvalid
from torchrelay.model.yaml_document import MAX_NODES, parse


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("on", "on"),
        ("Yes", "Yes"),
        ("true", True),
        ("False", False),
        ("~", None),
        ("", None),
        ("null", None),
        ("12", 12),
        ("-3", -3),
        ("0x1F", 31),
        ("0o17", 15),
        ("010", "010"),
        ("0b11", "0b11"),
        ("1_000", "1_000"),
        ("12:30:45", "12:30:45"),
        ("2026-01-02", "2026-01-02"),
        ("1e3", 1000.0),
        ("1.", 1.0),
        (".5", 0.5),
        ("-.inf", -math.inf),
        ("'12'", "12"),
        ('"true"', "true"),
        ("!!str 12", "12"),
        ("=", "="),
        ("a: b: c", None),
    ],
)
def test_scalars(text: str, value: Any) -> None:
    if text == "a: b: c":
        with fails(ModelInvalid, words=messages.NOT_YAML):
            parse(f"x: {text}\n".encode(), "f")
        return
    result = parse(f"x: {text}\n".encode(), "f").value["x"]
    assert result == value
    assert type(result) is type(value)


def test_nan_and_numbers_beyond_reason() -> None:
    document = parse(("x: .nan\ny: " + "1" * 5000 + "\nz: 1e999999\n").encode(), "f")
    assert math.isnan(document.value["x"])
    assert document.value["y"] == "1" * 5000
    assert document.value["z"] == "1e999999"


def test_lines_and_texts() -> None:
    text = "a: 1.10\n\nb:\n  c: [x,\n    007]\n  'd': |\n    text\n    more\ne: {f: 1}\n"
    document = parse(text.encode(), "f")
    assert document.value == {"a": 1.1, "b": {"c": ["x", "007"], "d": "text\nmore\n"}, "e": {"f": 1}}
    lines = {("a",): 1, ("b",): 3, ("b", "c"): 4, ("b", "c", 0): 4, ("b", "c", 1): 5, ("b", "d"): 6, ("e",): 9, ("e", "f"): 9}
    assert {path: line for path, line in document.lines.items() if path} == lines
    assert document.texts[("a",)] == "1.10"
    assert ("b", "d") not in document.texts
    assert document.line(("b", "nothing", "here")) == 3
    assert document.line(("nothing",)) == 1


def test_windows_line_ends_and_byte_order_mark() -> None:
    document = parse(b"\xef\xbb\xbfa: 1\r\nb: 2\r\n", "f")
    assert document.value == {"a": 1, "b": 2}
    assert document.line(("b",)) == 2


def test_anchors_are_values_and_their_lines_are_where_they_are_used() -> None:
    document = parse(b"a: &x {k: 1}\nb: *x\n", "f")
    assert document.value == {"a": {"k": 1}, "b": {"k": 1}}
    assert document.line(("b",)) == 2


def test_keys_are_text() -> None:
    assert parse(b"1: a\ntrue: b\n1.10: c\n", "f").value == {"1": "a", "true": "b", "1.10": "c"}


def test_many_values_are_fine_until_they_are_not() -> None:
    assert len(parse(("x: [" + "1, " * 10_000 + "]").encode(), "f").value["x"]) == 10_000
    with pytest.raises(ModelInvalid, match=f"more than {MAX_NODES} values"):
        parse(("x: [" + "1, " * (MAX_NODES + 1) + "]").encode(), "f")


def test_all_duplicates_are_reported_and_the_rest_is_read() -> None:
    document = parse(b"a: 1\na: 2\nb: 3\nb: 4\n", "f")
    assert document.value == {"a": 1, "b": 3}
    assert [(problem.line, problem.field) for problem in document.problems] == [(2, "a"), (4, "b")]
