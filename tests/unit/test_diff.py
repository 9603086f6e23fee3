"""Compare two answers by the rules of verify, one line for each difference, and store answers within limits."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from torchrelay.core.workspace import Workspace
from torchrelay.model.model import Model
from torchrelay.model.sample_file import Expect, Sample
from torchrelay.stages.diff import compare_with, differences, route
from torchrelay.verification import kept_answers
from torchrelay.verification.kept_answers import KeptAnswer
from torchrelay.verification.prober import ProbeAnswer, ProbeRequest

MODEL = Model.model_validate({"name": "digits", "weights": "model.pt", "handler": "tensor"})


def sample(name: str = "one", **expect: Any) -> Sample:
    return Sample(name, b"{}", "application/json", Expect(**expect), None, f"samples/{name}.json", 1)


def answer(value: Any, status: int = 200) -> KeptAnswer:
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    return KeptAnswer.of(ProbeAnswer("", status, "application/json", body, 1.0, None))


@pytest.mark.parametrize(
    ("expect", "live", "new", "expected"),
    [
        ({}, {"a": 1}, {"a": 1}, []),
        ({}, b'{"a":1, "b":2}', b'{"b": 2,"a": 1}', []),
        ({}, {"a": 1.0}, {"a": 1.5}, ["$.a: 1.0, now 1.5"]),
        ({}, {"a": 1}, {"b": 1}, ["$.a: 1, now nothing", "$.b: nothing, now 1"]),
        ({}, {"a": None}, {}, ["$.a: null, now nothing"]),
        ({}, [1, 2], [1, 3, 4], ["$: 2 items, now 3", "$[1]: 2, now 3"]),
        ({}, {"a": [1]}, {"a": {"x": 1}}, ["$.a: [1], now {\"x\": 1}"]),
        ({}, True, 1, ["$: true, now 1"]),
        ({}, [float("nan")], [float("nan")], []),
        ({"mode": "numeric", "atol": 0.1, "rtol": 0.0}, [1.0, 2.0], [1.05, 2.2], ["$[1]: 2.0, now 2.2"]),
        ({"mode": "numeric", "rtol": 0.5}, 10, 14.9, []),
        ({"mode": "top_k", "k": 1}, {"cat": 0.9, "dog": 0.1}, {"cat": 0.5, "dog": 0.4}, []),
        ({"mode": "top_k", "k": 1}, {"cat": 0.9, "dog": 0.1}, {"cat": 0.4, "dog": 0.5},
         ['$: the first 1 were ["cat"], now ["dog"]']),
        ({"mode": "top_k", "k": 1}, "x", "y", ['$: "x", now "y"']),
        ({"mode": "subset", "value": {"a": {}, "b": {"c": 1}}}, {"a": 1, "b": {"c": 1, "t": 5}},
         {"a": 2, "b": {"c": 1, "t": 6}}, []),
        ({"mode": "subset", "value": {"b": {"c": 1}}}, {"b": {"c": 1}}, {"b": {"c": 2}}, ["$.b.c: 1, now 2"]),
        ({"mode": "subset", "value": [{"c": 1}]}, [{"c": 1, "t": 1}], [{"c": 1, "t": 2}], []),
        ({"kind": "text", "value": "x"}, b"caf\xc3\xa9", b"tea", ['body: "caf\u00e9", now "tea"']),
        ({"kind": "bytes", "value": b"x"}, b"\xff\x00", b"\xff\x01\x02", ["body: 2 bytes, now 3 bytes"]),
        ({"kind": "status", "status": 422}, b"one", b"other", []),
        ({}, b"not json", b"{}", ['body: "not json", now "{}"']),
        ({}, b"[" * 5000, b"{}", [f'body: "{"[" * 60}...", now "{{}}"']),
        ({}, list(range(9)), [x + 1 for x in range(9)], [f"$[{x}]: {x}, now {x + 1}" for x in range(5)] + ["and 4 more"]),
        ({}, {"a\n::error::x\u202e": 1}, {}, ["$.a\\n::error::x\\u202e: 1, now nothing"]),
    ],
)  # fmt: skip
def test_differences(expect: dict[str, Any], live: Any, new: Any, expected: list[str]) -> None:
    lines = differences(sample(**expect), answer(live), answer(new))
    assert lines == expected
    assert all(line.isprintable() for line in lines)


def test_another_status_is_the_one_difference() -> None:
    assert differences(sample(), answer({"a": 1}), answer({"error": "x"}, 422)) == ["status: 200, now 422"]
    assert differences(sample(kind="status", status=422), answer({}, 422), answer({}, 422)) == []


def test_an_answer_too_large_to_keep_is_known_by_its_digest() -> None:
    large = answer(b"x" * 10)
    assert differences(sample(), large, replace(large, body=None)) == []
    assert differences(sample(), answer(b"y"), replace(large, body=None)) == ["body: different bytes, too many to be stored"]


@pytest.mark.parametrize(
    ("url", "asked"),
    [
        ("https://x.org", "https://x.org/predictions/digits"),
        ("https://x.org/", "https://x.org/predictions/digits"),
        ("https://x.org/team/", "https://x.org/team/predictions/digits"),
        ("https://x.org/predictions/digits", "https://x.org/predictions/digits"),
        ("https://x.org/predictions/digits/2.0", "https://x.org/predictions/digits/2.0"),
        ("https://x.org/predictions/other", "https://x.org/predictions/other/predictions/digits"),
        ("http://127.0.0.1:8080/invocations", "http://127.0.0.1:8080/invocations"),
    ],
)
def test_the_route(url: str, asked: str) -> None:
    assert route(url, MODEL) == asked


class Live:
    """Returns the given replies in order and records the requests."""

    def __init__(self, *replies: Any) -> None:
        self.replies = list(replies)
        self.sent: list[ProbeRequest] = []

    def send(self, requests: Sequence[ProbeRequest], _concurrency: int, _timeout_s: float) -> list[ProbeAnswer]:
        self.sent += requests
        return [self._one(request) for request in requests]

    def _one(self, request: ProbeRequest) -> ProbeAnswer:
        value = self.replies.pop(0)
        if isinstance(value, str):
            return ProbeAnswer(request.id, 0, "", b"", 0.0, value)
        status = value if isinstance(value, int) else 200
        return ProbeAnswer(request.id, status, "application/json", json.dumps(value).encode(), 1.0, None)


TWO = [sample("one"), sample("two")]
NEW = {"one": answer({"a": 1}), "two": answer({"a": 2})}


def test_every_sample_is_sent_once_and_compared() -> None:
    live = Live({"a": 1}, {"a": 3})
    result = compare_with(live, "http://x", MODEL, TWO, NEW)
    assert result.summary() == {
        "url": "http://x",
        "reachable": True,
        "reason": "",
        "changed": 1,
        "samples": [
            {"name": "one", "same": True, "differences": [], "status_live": 200, "status_new": 200},
            {"name": "two", "same": False, "differences": ["$.a: 3, now 2"], "status_live": 200, "status_new": 200},
        ],
    }
    assert [request.id for request in live.sent] == ["one", "two"]


@pytest.mark.parametrize(("first", "reason"), [("ConnectionError: refused\n\x1b", "ConnectionError: refused\\n\\x1b"),
                                              (503, "it answers with 503"), (404, "with 404"), (401, "401")])  # fmt: skip
def test_an_unreachable_server_gets_one_request(first: Any, reason: str) -> None:
    live = Live(first)
    result = compare_with(live, "http://x", MODEL, TWO, NEW)
    assert (result.reachable, result.samples, len(live.sent)) == (False, [], 1)
    assert reason in result.reason


def test_an_answer_that_is_lost_on_the_way() -> None:
    result = compare_with(Live({"a": 1}, "Timeout"), "http://x", MODEL, TWO, NEW)
    assert (result.samples[1].differences, result.samples[1].status_live) == (["no answer: Timeout"], 0)


def test_answers_are_kept_within_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_answers, "LARGEST", 100)
    monkeypatch.setattr(kept_answers, "MOST_BYTES", 150)
    workspace = Workspace(tmp_path)
    workspace.ensure()
    came = {
        name: ProbeAnswer(name, 200, "", b"x" * size, 1.0, None) for name, size in {"a": 101, "b": 100, "c": 60, "d": 50}.items()
    }
    kept_answers.save(workspace, "sha256:1", came)
    answers = kept_answers.load(workspace, "sha256:1")
    assert answers is not None
    assert {name: one.body and len(one.body) for name, one in answers.items()} == {"a": None, "b": 100, "c": None, "d": 50}
    assert answers["a"].digest == KeptAnswer.of(came["a"]).digest
    assert kept_answers.load(workspace, "sha256:2") is None


@pytest.mark.parametrize("text", ["", "[]", "3", '{"config": "x"}', '{"config": "x", "answers": {"a": {}}}',
                                  '{"config": "x", "answers": {"a": {"status": 1, "body": "*", "digest": ""}}}'])  # fmt: skip
def test_damaged_answers_are_none(tmp_path: Path, text: str) -> None:
    Workspace(tmp_path).ensure()
    Workspace(tmp_path).answers.write_text(text)
    assert kept_answers.load(Workspace(tmp_path), "x") is None
