"""Requests that share batches with a sample, and a gate that finds answers that were mixed up in a batch."""

import io
import json
from collections.abc import Sequence
from typing import Any

import pytest
from PIL import Image

from torchrelay.model.model import Model
from torchrelay.model.samples import Expect, Sample
from torchrelay.verification.neighbours import Neighbour, neighbour_of
from torchrelay.verification.prober import ProbeAnswer, ProbeRequest
from torchrelay.verification.replay import replay

JSON = "application/json"
MODEL = Model.model_validate({"name": "m", "weights": "model.pt", "handler": "tensor"})


def sample(body: bytes, kind: str = JSON, value: Any = None) -> Sample:
    return Sample("one", body, kind, Expect(value=value), None, "samples/one.json", 1)


def shape(value: Any) -> Any:
    return [shape(item) for item in value] if isinstance(value, list) else type(value).__name__


@pytest.mark.parametrize(
    "value",
    [[1, 2, 3], [[1.5, 2.5], [3.5, 4.5]], {"instances": [[1, 2], [3, 4]]}, {"text": "a good film"}, [0.5, 0.5], [[0.0] * 3]],
)
def test_a_neighbour_has_the_same_shape_and_other_values(value: Any) -> None:
    neighbour = neighbour_of(sample(json.dumps(value).encode()))
    assert neighbour is not None
    other = json.loads(neighbour.body)
    assert other != value
    if isinstance(value, list):
        assert shape(other) == shape(value)


def test_a_text_keeps_its_words() -> None:
    neighbour = neighbour_of(sample(b"what a good film", "text/plain; charset=utf-8"))
    assert neighbour == Neighbour(b"film good a what", "text/plain; charset=utf-8")


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_picture_becomes_another_of_its_size(form: str, mode: str) -> None:
    buffer = io.BytesIO()
    Image.new(mode, (31, 17), 200 if mode == "L" else (200, 10, 10)).save(buffer, form)
    neighbour = neighbour_of(sample(buffer.getvalue(), f"image/{form.lower()}"))
    assert neighbour is not None
    other = Image.open(io.BytesIO(neighbour.body))
    other.load()
    assert (other.size, other.mode, neighbour.content_type) == ((31, 17), mode, "image/png")


@pytest.mark.parametrize(
    "body", [b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"not json", b"[]", b"7", b"{", b"\xff\xd8" + b"\xff\xc0" * 9]
)
def test_without_a_shape_there_is_no_neighbour(body: bytes) -> None:
    assert neighbour_of(sample(body)) is None


class Batched:
    """Answers requests in batches of `size`, by `answer`: a stand-in for the prober and the server's batching."""

    def __init__(self, size: int, answer: Any) -> None:
        self.size, self.answer = size, answer

    def send(self, requests: Sequence[ProbeRequest], concurrency: int, _: float) -> list[ProbeAnswer]:
        answers: list[ProbeAnswer] = []
        for at in range(0, len(requests), min(self.size, concurrency)):
            batch = requests[at : at + min(self.size, concurrency)]
            values = self.answer([json.loads(one.body) for one in batch])
            bodies = [json.dumps(value).encode() for value in values]
            answers += [ProbeAnswer(one.id, 200, JSON, body, 1.0, None) for one, body in zip(batch, bodies, strict=True)]
        return answers


RIGHT = [sum(number * (place + 1) for place, number in enumerate([1, 2, 3]))]


def right(rows: list[list[int]]) -> list[list[int]]:
    return [[sum(number * (place + 1) for place, number in enumerate(row))] for row in rows]


def mixed(rows: list[list[int]]) -> list[list[int]]:
    return right(rows)[::-1]


def the_first(rows: list[list[int]]) -> list[list[int]]:
    return [right(rows)[0]] * len(rows)


@pytest.mark.parametrize("answer", [mixed, the_first])
def test_a_model_that_mixes_up_its_batch_fails_with_one_sample(answer: Any) -> None:
    """Control: with copies of that sample alone, every answer looks right."""
    one = sample(b"[1, 2, 3]", value=RIGHT)
    assert not replay(Batched(4, answer), MODEL, [one], neighbours=True).passed
    assert replay(Batched(4, answer), MODEL, [one]).passed, "the control"
    assert replay(Batched(4, right), MODEL, [one], neighbours=True).passed
