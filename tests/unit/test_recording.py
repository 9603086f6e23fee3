"""Recording: only the expectation changes, and the recorded sample passes when it is read again."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.unit.model_dirs import write
from torchrelay.authoring.record import Answer, record, recorded, requests
from torchrelay.model.model import load_model
from torchrelay.model.samples import load_samples
from torchrelay.verification.compare import compare

JSON = "application/json"


def written(before: dict[str, Any], answer: Answer) -> dict[str, Any]:
    document = json.loads(recorded(json.dumps(before).encode(), answer))
    assert list(document)[: len(before)] == list(before)
    return document["expect"]  # type: ignore[no-any-return] # the value is checked by its user


@pytest.mark.parametrize(
    ("before", "answer", "expect"),
    [
        ({}, Answer(200, JSON, b'{"class": "a"}'), {"json": {"class": "a"}}),
        ({}, Answer(200, JSON, b"[0.5]"), {"json": [0.5], "compare": "numeric", "rtol": 1e-3, "atol": 1e-4}),
        ({"compare": "exact"}, Answer(200, JSON, b"[0.5]"), {"json": [0.5], "compare": "exact"}),
        (
            {"json": [1.0], "compare": "numeric", "atol": 0.5},
            Answer(200, JSON, b"[2.0]"),
            {"json": [2.0], "compare": "numeric", "atol": 0.5},
        ),
        ({}, Answer(400, JSON, b'{"code": 400}'), {"status": 400, "json": {"code": 400}}),
        ({"status": 400}, Answer(200, JSON, b"1"), {"status": 200, "json": 1}),
        ({}, Answer(200, "text/plain", "hé".encode()), {"text": "hé"}),
        ({"compare": "numeric", "atol": 1}, Answer(200, "text/plain", b"words"), {"text": "words"}),
        ({}, Answer(200, "image/png", b"\xff\0"), {"base64": "/wA="}),
    ],
)
def test_expectation(before: dict[str, Any], answer: Answer, expect: dict[str, Any]) -> None:
    file: dict[str, Any] = {"request": {"json": 1}, "latency_ms": 7} | ({"expect": before} if before else {})
    assert written(file, answer) == expect


def test_a_recorded_sample_passes(tmp_path: Path) -> None:
    folder = write(
        tmp_path,
        {
            "samples/one.json": '{"latency_ms": 9000, "request": {"json": [1, 2, 3, 4]}}',
            "samples/two.request.png": b"PNG",
            "samples/three.request.bin": b"x",
            "samples/three.expected.txt": "old",
        },
    )
    answers = {
        "one": Answer(200, JSON, b"[0.25]"),
        "two": Answer(400, JSON, b'{"p": 0.5}'),
        "three": Answer(200, "text/plain", b"new"),
    }
    samples = load_samples(folder, load_model(folder), unrecorded=True)
    changed = record(folder, samples, answers)
    assert sorted(path.name for path in changed) == ["one.json", "three.expected.txt", "two.compare.json", "two.expected.json"]
    again = {sample.name: sample for sample in load_samples(folder, load_model(folder))}
    for name, answer in answers.items():
        assert compare(again[name], answer.status, answer.content_type, answer.body, 1.0) == []
    assert again["one"].latency_ms == 9000
    assert record(folder, list(again.values()), answers) == []


def test_a_sample_is_sent_to_its_version(tmp_path: Path) -> None:
    folder = write(tmp_path)
    model = load_model(folder)
    (sample,) = load_samples(folder, model)
    sent = requests(model, [sample, replace(sample, version="2.0")])
    assert [one.path for one in sent] == [f"/predictions/{model.name}", f"/predictions/{model.name}/2.0"]


def test_samples_without_an_answer_stay_unchanged(tmp_path: Path) -> None:
    folder = write(tmp_path)
    before = (folder / "samples/one.json").read_bytes()
    assert record(folder, load_samples(folder, load_model(folder)), {}) == []
    assert (folder / "samples/one.json").read_bytes() == before


def test_a_file_is_replaced_completely_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path)
    before = (folder / "samples/one.json").read_bytes()
    samples = load_samples(folder, load_model(folder))

    def full(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "replace", full)
    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="Input/output"):
        record(folder, samples, {"one": Answer(200, JSON, b"3")})
    assert (folder / "samples/one.json").read_bytes() == before
    assert [path.name for path in (folder / "samples").iterdir()] == ["one.json"]
