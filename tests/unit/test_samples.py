"""Samples: every valid form, and every mistake with its file and line."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from tests import messages
from tests.errors import fails
from tests.unit.model_dirs import GOOD_SAMPLE, GOOD_YAML, write
from torchrelay.core.errors import ModelInvalid
from torchrelay.model.model import load_model
from torchrelay.model.samples import Expect, Sample, load_samples

OK = '"expect": {"json": 1}'
REQ = '"request": {"json": 1}'

BAD: list[tuple[str, str | bytes, str, str]] = [
    ("empty", "", "one.json:1:", "is not JSON"),
    ("not_json", '{"request": {"json": 1},\n nope}', "one.json:2:", "is not JSON: Expecting property name"),
    ("cut_short", '{\n"request": {"json": [1,\n', "one.json:3:", "is not JSON"),
    ("not_utf8", b'{"request":\n\xff}', "one.json:2:", "byte 0xff is not UTF-8"),
    ("list", "[]", "one.json:1:", "is not a JSON object"),
    ("deep", '{"request": {"json": ' + "[" * 100 + "]" * 100 + "}, " + OK + "}", "one.json:1:", "nests deeper than 64 levels"),
    ("bottomless", '{"request": {"json": ' + "[" * 100_000, "one.json:1:", "nests too deeply"),
    ("long_number", '{"request": {"json": ' + "1" * 5000 + "}}", "one.json:1:", "holds a number too long to read"),
    ("no_request", "{" + OK + "}", "one.json:1:", 'request: required key is missing; write {"request"'),
    ("request_text", '{"request": "x",\n' + OK + "}", "one.json:1:", 'request: expected a mapping, got the text "x"'),
    (
        "no_body",
        '{\n"request": {},\n' + OK + "}",
        "one.json:2:",
        "request: has no body; write one of json, body, body_file and body_base64",
    ),
    ("two_bodies", '{\n"request": {"json": 1, "body": 2},\n' + OK + "}", "one.json:2:", "request: has json and body"),
    ("unknown_key", "{" + REQ + ",\n" + OK + ',\n"latency": 1}', "one.json:3:", "latency: unknown key; did you mean latency_ms?"),
    ("unknown_inner", '{"request": {\n"jsn": 1},\n' + OK + "}", "one.json:2:", "request.jsn: unknown key; did you mean json?"),
    (
        "duplicate",
        "{" + REQ + ",\n" + OK + ",\n" + REQ + "}",
        "one.json:3:",
        "request: is written twice, first at line 1; keep one",
    ),
    (
        "duplicate_inner",
        '{"request": {"json": {"a": {"b": 1,\n"b": 2}}}, ' + OK + "}",
        "one.json:2:",
        "request.json.a.b: is written twice, first at line 1",
    ),
    ("no_expect", "{" + REQ + "}", "one.json:1:", "expect: the sample has no expected answer; run `torchrelay samples record`"),
    (
        "null_expect",
        "{" + REQ + ',\n"expect": null}',
        "one.json:2:",
        "expect: the sample has no expected answer; run `torchrelay samples record`",
    ),
    ("empty_expect", "{" + REQ + ',\n"expect": {}}', "one.json:2:", "expect: the sample has no expected answer"),
    ("status_only", "{" + REQ + ',\n"expect": {"status": 200}}', "one.json:2:", "expect: the sample has no expected answer"),
    ("two_answers", "{" + REQ + ',\n"expect": {"json": 1, "text": "1"}}', "one.json:2:", "expect: has json and text; keep one"),
    (
        "status",
        "{" + REQ + ',\n"expect": {\n"status": 99, "json": 1}}',
        "one.json:3:",
        "expect.status: must be at least 100, not 99",
    ),
    ("compare", "{" + REQ + ',"expect": {"json": 1,\n"compare": "numerics"}}', "one.json:2:", "did you mean numeric?"),
    (
        "atol_alone",
        "{" + REQ + ',"expect": {"json": 1,\n"atol": 1}}',
        "one.json:2:",
        'expect.atol: has no meaning without compare: numeric; add "compare": "numeric"',
    ),
    (
        "k_alone",
        "{" + REQ + ',"expect": {"json": 1, "compare": "exact",\n"k": 1}}',
        "one.json:2:",
        "expect.k: has no meaning without compare: top_k",
    ),
    (
        "atol_negative",
        "{" + REQ + ',"expect": {"json": 1, "compare": "numeric",\n"atol": -1}}',
        "one.json:2:",
        "expect.atol: must be at least 0, not -1",
    ),
    (
        "atol_infinite",
        "{" + REQ + ',"expect": {"json": 1, "compare": "numeric",\n"atol": Infinity}}',
        "one.json:2:",
        "expect.atol:",
    ),
    (
        "numeric_text",
        "{" + REQ + ',"expect": {"text": "1",\n"compare": "numeric"}}',
        "one.json:2:",
        "expect.compare: numeric compares JSON only; write the answer as json",
    ),
    ("latency", "{" + REQ + "," + OK + ',\n"latency_ms": 0}', "one.json:2:", "latency_ms: must be greater than 0, not 0"),
    (
        "latency_text",
        "{" + REQ + "," + OK + ',\n"latency_ms": "10"}',
        "one.json:2:",
        'latency_ms: expected a number, got the text "10"; remove the quotes',
    ),
    (
        "content_type",
        '{"request": {"json": 1,\n"content_type": "a/b\\r\\nX: y"},' + OK + "}",
        "one.json:2:",
        'request.content_type: "a/b\\r\\nX: y" is not a content type',
    ),
    ("base64", '{"request": {\n"body_base64": "a"},' + OK + "}", "one.json:2:", "request.body_base64: is not base64"),
    (
        "body_file_missing",
        '{"request": {\n"body_file": "x.png"},' + OK + "}",
        "one.json:2:",
        'request.body_file: "x.png" does not exist',
    ),
    (
        "body_file_up",
        '{"request": {\n"body_file": "../model.pt"},' + OK + "}",
        "one.json:2:",
        'request.body_file: "../model.pt" leaves the model directory',
    ),
    ("control_in_key", '{"request": {"json": 1}, "a\\u001b[2J": 1}', "one.json:1:", "a\\x1b[2J: unknown key"),
    ("only_errors", "{" + REQ + ', "expect": {"status": 400}}', ":", "samples: holds no sample that expects status 200; add one"),
]


def load(folder: Path, files: dict[str, str | bytes | None], **options: bool) -> list[Sample]:
    write(folder, {"samples/one.json": None} | files)
    return load_samples(folder, load_model(folder), **options)


def problems(folder: Path, files: dict[str, str | bytes | None]) -> list[str]:
    with pytest.raises(ModelInvalid) as caught:
        load(folder, files)
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize(("text", "place", "fragment"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_refused(tmp_path: Path, text: str | bytes, place: str, fragment: str) -> None:
    messages = problems(tmp_path, {"samples/one.json": text})
    place = f"samples{place}" if place == ":" else f"samples/{place}"
    assert any(line.startswith(place) and fragment in line for line in messages), "\n".join(messages)
    assert all(line.isprintable() for line in messages)


@pytest.mark.parametrize(
    ("request_part", "body", "content_type"),
    [
        ({"json": [1, 2.5, "ü"]}, '[1, 2.5, "ü"]'.encode(), "application/json"),
        ({"json": None}, b"null", "application/json"),
        ({"json": "text"}, b'"text"', "application/json"),
        ({"body": "text"}, b"text", "text/plain"),
        ({"body": "{broken", "content_type": "application/json"}, b"{broken", "application/json"),
        ({"body": {"a": 1}}, b'{"a": 1}', "application/json"),
        ({"body_base64": "AAEC"}, b"\0\1\2", "application/octet-stream"),
        ({"body_file": "x.png"}, b"PNG", "image/png"),
        ({"body_file": "./x.png", "content_type": "image/x-own; a=b"}, b"PNG", "image/x-own; a=b"),
        ({"body_file": "x.bin"}, b"BIN", "application/octet-stream"),
    ],
)
def test_requests(tmp_path: Path, request_part: dict[str, Any], body: bytes, content_type: str) -> None:
    text = json.dumps({"request": request_part, "expect": {"json": 1}})
    (sample,) = load(tmp_path, {"samples/one.json": text, "samples/x.png": b"PNG", "samples/x.bin": b"BIN"})
    assert (sample.name, sample.body, sample.content_type, sample.file) == ("one", body, content_type, "samples/one.json")


@pytest.mark.parametrize(
    ("part", "expect"),
    [
        ({"json": {"a": 1}}, Expect(value={"a": 1})),
        ({"json": None}, Expect(value=None)),
        ({"text": "x"}, Expect(value="x", kind="text")),
        ({"base64": "AAE="}, Expect(value=b"\0\1", kind="bytes")),
        ({"status": 400}, Expect(status=400, kind="status")),
        ({"status": 400, "json": {"a": 1}, "compare": "subset"}, Expect(status=400, mode="subset", value={"a": 1})),
        ({"json": [1.5], "compare": "numeric", "atol": 1, "rtol": 0}, Expect(mode="numeric", value=[1.5], atol=1, rtol=0)),
        ({"json": ["a"], "compare": "top_k", "k": 3}, Expect(mode="top_k", value=["a"], k=3)),
    ],
)
def test_expectations(tmp_path: Path, part: dict[str, Any], expect: Expect) -> None:
    files: dict[str, str | bytes | None] = {
        "samples/one.json": json.dumps({"request": {"json": 1}, "expect": part, "latency_ms": 200}),
        "samples/zero.json": GOOD_SAMPLE,
    }
    sample = load(tmp_path, files)[0]
    assert sample.expect == expect
    assert sample.latency_ms == 200


def test_line_of_a_sample_is_that_of_its_request(tmp_path: Path) -> None:
    (sample,) = load(tmp_path, {"samples/one.json": '{\n\n"request": {"json": 1}, "expect": {"json": 1}}'})
    assert sample.line == 3


def test_pairs(tmp_path: Path) -> None:
    files: dict[str, str | bytes | None] = {
        "samples/cat.request.png": b"PNG",
        "samples/cat.expected.json": '{"class": "cat"}',
        "samples/cat.compare.json": '{"compare": "top_k", "k": 2, "latency_ms": 50}',
        "samples/text.request.json": "[1]",
        "samples/text.expected.txt": "hello\n",
        "samples/bad.request.bin": b"\0",
        "samples/bad.compare.json": '{"status": 400}',
        "samples/README.md": "words",
    }
    bad, cat, text = load(tmp_path, files)
    assert (cat.body, cat.content_type, cat.latency_ms) == (b"PNG", "image/png", 50)
    assert cat.expect == Expect(mode="top_k", value={"class": "cat"}, k=2)
    assert (text.name, text.content_type, text.expect) == ("text", "application/json", Expect(value="hello\n", kind="text"))
    assert (bad.expect.status, bad.expect.kind, bad.content_type) == (400, "status", "application/octet-stream")


@pytest.mark.parametrize(
    ("files", "fragment"),
    [
        ({"samples/a.request.png": b"x"}, "samples/a.request.png: has no expected answer; run `torchrelay samples record`"),
        ({"samples/a.expected.json": "1"}, "samples/a.expected.json: belongs to no request: there is no a.request.*"),
        ({"samples/a.request.png": b"x", "samples/a.request.jpg": b"x", "samples/a.expected.json": "1"}, "is a second request of"),
        ({"samples/a.request.png": b"x", "samples/a.expected.json": "\n{"}, "samples/a.expected.json:2: is not JSON"),
        (
            {"samples/a.request.png": b"x", "samples/a.expected.json": "1", "samples/a.compare.json": '{\n"atoll": 1}'},
            "samples/a.compare.json:2: atoll: unknown key; did you mean atol?",
        ),
        (
            {"samples/a.request.png": b"x", "samples/a.expected.json": "1", "samples/a.json": GOOD_SAMPLE},
            "has the same name as samples/a.json",
        ),
        ({"samples/a\x1b.json": GOOD_SAMPLE}, "samples/a\\x1b.json: is not a legal file name; rename it"),
        (
            {"samples/a.request.png": "version https://git-lfs.github.com/spec/v1\n", "samples/a.expected.json": "1"},
            "samples/a.request.png: is a Git LFS pointer",
        ),
        (
            {
                "model.yaml": GOOD_YAML + "max_body_mb: 1\n",
                "samples/a.json": json.dumps({"request": {"body": "x" * (1 << 20) + "y"}, "expect": {"json": 1}}),
            },
            "samples/a.json:1: request: has a body of 1048577 bytes, max_body_mb allows 1048576",
        ),
    ],
)
def test_folders_refused(tmp_path: Path, files: dict[str, str | bytes | None], fragment: str) -> None:
    messages = problems(tmp_path, files)
    assert any(fragment in line for line in messages), "\n".join(messages)


def test_a_json_body_is_not_a_sample(tmp_path: Path) -> None:
    text = '{"request": {"body_file": "body.json"}, "expect": {"json": 1}}'
    (sample,) = load(tmp_path, {"samples/one.json": text, "samples/body.json": "[1, 2]"})
    assert (sample.body, sample.content_type) == (b"[1, 2]", "application/json")


def test_unrecorded_samples_load_when_they_are_to_be_recorded(tmp_path: Path) -> None:
    files: dict[str, str | bytes | None] = {
        "samples/one.json": '{"request": {"json": 1}}',
        "samples/two.json": '{"request": {"json": 1}, "expect": {"compare": "numeric", "atol": 0.5}}',
        "samples/three.request.png": b"x",
    }
    one, three, two = load(tmp_path, files, unrecorded=True)
    assert (one.expect.kind, three.expect.kind, two.expect.kind) == ("missing", "missing", "missing")
    assert (two.expect.mode, two.expect.atol) == ("numeric", 0.5)


def test_body_that_links_out(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(b"secret")
    folder = write(tmp_path / "model", {"samples/one.json": '{"request": {"body_file": "x.png"}, "expect": {"json": 1}}'})
    (folder / "samples/x.png").symlink_to(tmp_path / "secret.png")
    with fails(ModelInvalid, words=messages.OUTSIDE_MODEL):
        load_samples(folder, load_model(folder))


def test_a_megabyte_of_base64_is_read_quickly(tmp_path: Path) -> None:
    body = base64.b64encode(bytes(3 << 20)).decode()
    text = json.dumps({"request": {"body_base64": body}, "expect": {"json": list(range(10_000))}}, indent=1)
    (sample,) = load(tmp_path, {"samples/one.json": text})
    assert len(sample.body) == 3 << 20
