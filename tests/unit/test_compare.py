"""Compares answers with expectations: which pass, and the messages for those that do not."""

import json
import math
from typing import Any

import pytest

from torchrelay.model.samples import Expect, Sample
from torchrelay.verification.compare import MOST, compare, ranked

NAN = math.nan


def differences(
    expect: Expect, answer: Any, *, status: int = 200, latency_ms: float | None = 1.0, budget: float | None = None
) -> list[str]:
    body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    return compare(Sample("s", b"", "application/json", expect, budget, "s.json", 1), status, "application/json", body, latency_ms)


@pytest.mark.parametrize(
    ("expect", "answer"),
    [
        (Expect(value={"a": [1, "x", None, True]}), {"a": [1, "x", None, True]}),
        (Expect(value=1), 1.0),
        (Expect(value=NAN), NAN),
        (Expect(value={"a": 1, "b": 2}), {"b": 2, "a": 1}),
        (Expect(mode="numeric", value=[1.0, {"x": 2}], atol=0.1, rtol=0), [1.09, {"x": 1.95}]),
        (Expect(mode="numeric", value=100.0, atol=0, rtol=0.01), 100.9),
        (Expect(mode="numeric", value=[NAN, math.inf, -math.inf]), [NAN, math.inf, -math.inf]),
        (Expect(mode="numeric", value="text"), "text"),
        (Expect(mode="numeric", value=10**400), 10**400),
        (Expect(mode="subset", value={"a": {"b": 1}}), {"a": {"b": 1, "c": 2}, "d": 3}),
        (Expect(mode="subset", value=[{"a": 1}]), [{"a": 1, "b": 2}]),
        (Expect(mode="subset", value={}), [1, 2]),
        (Expect(mode="top_k", value=["a", "b", "c"], k=2), ["b", "a", "x"]),
        (Expect(mode="top_k", value={"a": 0.9, "b": 0.1}, k=1), {"b": 0.4, "a": 0.6}),
        (Expect(mode="top_k", value={"class": "7", "confidence": 0.9}, k=1), {"class": "7", "confidence": 0.2}),
        (Expect(status=400, kind="status"), b"anything"),
        (Expect(value="hé", kind="text"), "hé".encode()),
        (Expect(value=b"\0\1", kind="bytes"), b"\0\1"),
    ],
)
def test_passes(expect: Expect, answer: Any) -> None:
    assert differences(expect, answer, status=expect.status) == []


@pytest.mark.parametrize(
    ("expect", "answer", "words"),
    [
        (
            Expect(mode="numeric", value={"confidence": 0.93}, atol=0.01, rtol=0),
            {"confidence": 0.42},
            ["$.confidence: expected 0.93 (±0.01), got 0.42"],
        ),
        (Expect(mode="numeric", value=[1.0], atol=0, rtol=0.1), [1.2], ["$[0]: expected 1.0 (±0.1), got 1.2"]),
        (Expect(mode="numeric", value=1.0), NAN, ["$: expected 1.0 (±0.00011), got NaN"]),
        (Expect(mode="numeric", value=NAN), 1.0, ["$: expected NaN (±nan), got 1.0"]),
        (Expect(mode="numeric", value=1.0), math.inf, ["$: expected 1.0 (±0.00011), got Infinity"]),
        (Expect(mode="numeric", value=math.inf), 1.0, ["$: expected Infinity (±inf), got 1.0"]),
        (Expect(mode="numeric", value=1), True, ["$: expected 1 (±0.00011), got true"]),
        (Expect(mode="numeric", value=1.0), "1.0", ['$: expected 1.0 (±0.00011), got "1.0"']),
        (Expect(mode="numeric", value=[1, 2]), [1], ["$: expected 2 items, got 1"]),
        (Expect(mode="numeric", value=1.0), 10**400, ["$: expected 1.0 (±0.00011), got 1" + "0" * 59 + "..."]),
        (Expect(value=1), True, ["$: expected 1, got true"]),
        (Expect(value=0.1 + 0.2), 0.3, ["$: expected 0.30000000000000004, got 0.3"]),
        (Expect(value=[]), {}, ["$: expected [], got {}"]),
        (Expect(value={"a": 1}), {"b": 1}, ["$.a: expected 1, got nothing", "$.b: expected nothing, got 1"]),
        (Expect(value={"a b": {"x\n": 1}}), {"a b": {"x\n": 2}}, ['$["a b"]["x\\n"]: expected 1, got 2']),
        (Expect(mode="subset", value={"a": {"b": 1}}), {"a": {"c": 1}}, ["$.a.b: expected 1, got nothing"]),
        (Expect(mode="subset", value=[1]), [1, 2], ["$: expected 1 items, got 2"]),
        (Expect(mode="top_k", value=["a", "b"], k=2), ["a", "c"], ['$: expected the first 2 to be ["a", "b"], got ["a", "c"]']),
        (Expect(mode="top_k", value=["a"]), 3, ["$: expected classes, got 3"]),
        (Expect(mode="top_k", value=3), ["a"], ["$: the expected answer has no classes: 3"]),
        (Expect(value="hello", kind="text"), b"hell\x1b", ['body: expected "hello", got "hell\\x1b"']),
        (Expect(value=b"abc", kind="bytes"), b"abX", ["body: expected 3 bytes, got 3; they differ from byte 2 on"]),
        (Expect(value=b"abc", kind="bytes"), b"ab", ["body: expected 3 bytes, got 2; they differ from byte 2 on"]),
        (Expect(value=1), b"<html>\n", ['$: expected JSON, got application/json: "<html>\\n"']),
        (Expect(value=1), b"\xff\xfe\xfa", ['$: expected JSON, got application/json: "\ufffd\ufffd\ufffd"']),
        (Expect(value=1), b"[" * 100_000, ['$: expected JSON, got application/json: "' + "[" * 200 + '..."']),
        (Expect(kind="missing"), 1, ["nothing is expected yet: run `torchrelay samples record`"]),
    ],
)
def test_differs(expect: Expect, answer: Any, words: list[str]) -> None:
    assert differences(expect, answer) == words


def test_a_wrong_status_is_reported_alone_with_the_body() -> None:
    assert differences(Expect(value=1), b'{"message": "Worker died."}', status=500) == [
        'status: expected 200, got 500: "{"message": "Worker died."}"'
    ]
    assert differences(Expect(status=400, kind="status"), 1) == ['status: expected 400, got 200: "1"']


def test_latency() -> None:
    assert differences(Expect(value=1), 1, latency_ms=200.0, budget=200.0) == []
    assert differences(Expect(value=1), 1, latency_ms=312.456, budget=200) == ["latency: expected at most 200 ms, got 312.5 ms"]
    assert differences(Expect(value=1), 1, latency_ms=None, budget=200) == []


def test_the_first_differences_are_listed_and_the_others_counted() -> None:
    lines = differences(Expect(value=list(range(20))), [x + 1 for x in range(20)])
    assert len(lines) == MOST + 1
    assert lines[-1] == "and 15 more"


def test_a_deeply_nested_answer_does_not_crash() -> None:
    deep = b'{"a": ' * 600 + b"1" + b"}" * 600
    assert differences(Expect(value={"a": {"a": 1}}), deep)[0].startswith("$.a.a: expected 1, got ")


@pytest.mark.parametrize(
    ("answer", "classes"),
    [
        ({"a": 0.1, "b": 0.9}, ["b", "a"]),
        ([0.1, 0.7, 0.2], ["1", "2", "0"]),
        ([{"class": "a", "confidence": 0.9}, {"class": "b", "confidence": 0.1}], ["a", "b"]),
        ([["a", 0.9], ["b", 0.1]], ["a", "b"]),
        ([7, 3], ["7", "3"]),
        ({"class": 7, "confidence": 0.5}, ["7"]),
        ({"class": "a", "confidence": 0.5, "top_k": [{"class": "a"}, {"class": "b"}]}, ["a", "b"]),
        ([], None),
        ([True], None),
        ("a", None),
        (None, None),
        ({"x": {"y": 1}}, None),
    ],
)
def test_ranked(answer: Any, classes: list[str] | None) -> None:
    assert ranked(answer) == classes
