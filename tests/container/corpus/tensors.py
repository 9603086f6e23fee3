"""Bad requests for the tensor handler with shape [4] and dtype float32, as JSON."""

from __future__ import annotations

import json

from tests.container.corpus.broken_json import broken, in_other_places, typed
from tests.container.corpus.case import Case, cases

MOST = 64  # max_instances of the container
GOOD = [5.1, 3.5, 1.4, 0.2]
_NUMBERS = "number|shape|rectangular|ragged"


def json_cases() -> list[Case]:
    """Numbers as JSON."""
    good = json.dumps(GOOD)
    values: dict[str, object] = {
        "null": None,
        "true": True,
        "text": "1.5",
        "empty text": "",
        "an object": {"value": 1},
        "an empty object": {},
        "an empty list": [],
        "a list": [1.5],
        "more than float32 holds": 1e39,
        "less than float32 holds": -1e39,
        "an integer of 400 digits": 10**400,
    }
    around = {
        "first": "[%s, 3.5, 1.4, 0.2]",
        "last": "[5.1, 3.5, 1.4, %s]",
        "alone": "%s",
        "in input_data": '{"input_data": [5.1, %s, 1.4, 0.2]}',
        "in instances": '{"instances": [[5.1, 3.5, 1.4, 0.2], [1, 2, 3, %s]]}',
        "as an instance": '{"instances": [[5.1, 3.5, 1.4, 0.2], %s]}',
        "as the data": '{"data": %s}',
        "in a list": "[[5.1, 3.5, 1.4, 0.2], [1, %s, 3, 4]]",
    }
    corpus = in_other_places(values, around, _NUMBERS + "|valid JSON", "json value")
    shapes: list[tuple[str, object]] = [(f"{count} numbers", [1.0] * count) for count in (1, 2, 3, 5, 8, 1000)]
    shapes += [(f"rows of {count}", [[1.0] * count] * 2) for count in (1, 3, 5)]
    shapes += [
        ("[1, 1, 4]", [[GOOD]]),
        ("[4, 1]", [[one] for one in GOOD]),
        ("ragged", [GOOD, GOOD[:3]]),
        ("deep", _nested(40, 1.0)),
    ]
    shapes += [("60 deep and wide", _nested(60, GOOD)), ("mixed depth", [1, [2], 3, 4]), ("a row and a number", [GOOD, 1])]
    corpus += cases("json shape", ((name, json.dumps(value)) for name, value in shapes), says=_NUMBERS)
    envelopes: list[tuple[str, object]] = [
        (f"{name!r}", {name: GOOD}) for name in ("inputs", "x", "", "Data", "DATA", "instance", "body", "\0")
    ]
    envelopes += [("two names", {"data": GOOD, "input_data": GOOD}), ("a name too many", {"data": GOOD, "id": 7})]
    envelopes += [
        ("within each other", {"data": {"input_data": {"data": GOOD}}}),
        ("numbers as keys", {str(n): n for n in range(4)}),
    ]
    corpus += cases("json envelope", ((name, json.dumps(value)) for name, value in envelopes), says="numbers are expected")
    wrong_instances: tuple[object, ...] = (None, {}, "", 0, True, [], "[[1, 2, 3, 4]]")
    instances: list[tuple[str, object]] = [(repr(value), {"instances": value}) for value in wrong_instances]
    instances += [
        ("with parameters", {"instances": [GOOD], "parameters": {"k": 1}}),
        ("too many", {"instances": [GOOD] * (MOST + 1)}),
    ]
    instances += [("too many rows", [GOOD] * (MOST + 1)), ("within each other", {"instances": [{"instances": [GOOD]}]})]
    corpus += cases(
        "json instances", ((name, json.dumps(value)) for name, value in instances), says="instances|parameters|at most|numbers"
    )
    corpus += broken("data", good)
    corpus += typed(good.encode(), "json type")
    wrong = (
        "text/plain",
        "image/png",
        "text/html",
        "application/xml",
        "audio/wav",
        "application/pdf",
        "x/y",
        "nonsense",
        "video/mp4",
        "/",
    )
    corpus += [
        Case(f"json as {kind}", good.encode(), kind, says="numbers are expected.*content type|text|string|content type")
        for kind in wrong
    ]
    legal: list[tuple[str, str]] = [
        ("integers", "[1, 2, 3, 4]"),
        ("exponents", "[1e0, 2E1, -3e-2, 0.4e+1]"),
        ("white space", f"\r\n\t {good} "),
    ]
    legal += [
        ("byte order mark", f"\ufeff{good}"),
        ("tiny", "[1e-400, -0.0, 5e-324, 0]"),
        ("long", "[1." + "0" * 5000 + ", 2, 3, 4]"),
    ]
    legal += [
        ("empty parameters", json.dumps({"instances": [GOOD], "parameters": {}})),
        ("as many as allowed", json.dumps([GOOD] * MOST)),
    ]
    corpus += cases("json legal", legal, wanted="answered")
    return [*corpus, Case("json oversize", b"[" + b"1," * (1 << 20) + b"1]", "application/json", says="larger")]


def _nested(depth: int, value: object) -> object:
    for _ in range(depth):
        value = [value]
    return value
