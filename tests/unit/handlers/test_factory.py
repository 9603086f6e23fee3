"""Per-sample functions, whole batches: every request its own answer, in order, whatever its neighbours are."""

import base64
import io
import json
import logging
from typing import Any
from unittest.mock import ANY

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from tests.unit.handlers.support import JSON, Double, Poisoned, differences
from torchrelay_handlers import Answer, BadSample, Handler, Raw, handler_factory, intake
from torchrelay_handlers.bodies.decode import decode


def ask(handler: Handler, *bodies: bytes, content_type: str = JSON) -> list[tuple[int, Any]]:
    return [(answer.status, answer.json()) for answer in handler.predict(bodies, content_type)]


def test_without_functions_the_numbers_go_through() -> None:
    handler = handler_factory(Double).load(None)
    assert ask(handler, b"[1, 2, 3]", b'{"input_data": [1.5, 2, 3]}', b'{"data": [0, 0, 1]}') == [
        (200, [2.0, 4.0, 6.0]),
        (200, [3.0, 4.0, 6.0]),
        (200, [0.0, 0.0, 2.0]),
    ]


def test_the_functions_see_one_sample_and_get_their_arguments() -> None:
    def preprocess(sample: Any, scale: float) -> Tensor:
        return torch.tensor(sample["x"]) * scale

    def postprocess(output: Tensor, places: int) -> object:
        assert output.shape == (3,)
        return {"sum": round(output.sum().item(), places)}

    handler = handler_factory(
        Double, preprocess_function=preprocess, postprocess_function=postprocess,
        preprocess_kwargs={"scale": 0.25}, postprocess_kwargs={"places": 1},
    ).load(None)  # fmt: skip
    assert ask(handler, b'{"x": [1, 2, 3]}', b'{"x": [0, 0, 0.5]}') == [(200, {"sum": 3.0}), (200, {"sum": 0.2})]


def linear(features: int, classes: int) -> nn.Module:
    return nn.Linear(features, classes)


def test_further_arguments_go_to_init_function() -> None:
    handler = handler_factory(linear, features=3, classes=2)
    assert len(ask(handler.load(None), b"[1, 2, 3]")[0][1]) == 2
    assert len(ask(handler.configure(init_kwargs={"classes": 5}).load(None), b"[1, 2, 3]")[0][1]) == 5


def test_requests_of_one_call_share_a_forward_pass() -> None:
    network = Double()
    handler = handler_factory(lambda: network).load(None)
    ask(handler, b"[1, 2, 3]", b"[4, 5, 6]", b"[7, 8, 9]", b"[0, 0, 0]")
    assert network.batches == [4]


@pytest.mark.parametrize("size", [1, 4])
def test_a_bad_body_is_its_own_4xx(size: int) -> None:
    handler = handler_factory(Double, options={"shape": [3]}).load(None)
    bodies = [b"[1, 2, 3]", b"{", b'"x"', b"[1, 2]"][-size:]
    answers = handler.predict(bodies, JSON)
    assert [answer.status for answer in answers] == [200, 400, 400, 400][-size:]
    problem = answers[-1].json()
    assert answers[-1].content_type == "application/problem+json"
    assert problem == {
        "type": "urn:torchrelay:problem:bad-tensor",
        "title": "Bad Request",
        "status": 400,
        "detail": "the sample has shape [2], the model takes [3]",
        "expected": {"shape": [3], "dtype": "float32"},
        "got": {"shape": [2]},
    }


def test_a_failing_network_is_one_samples_500_and_its_traceback_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    handler = handler_factory(Poisoned).load(None)
    with caplog.at_level(logging.ERROR, "torchrelay"):
        got = ask(handler, b"[1, 1, 1]", b"[13, 0, 0]", b"[2, 2, 2]", b"[3, 3, 3]")
    assert [status for status, _ in got] == [200, 500, 200, 200]
    assert "thirteen" not in json.dumps(got[1][1])
    assert "RuntimeError: thirteen" in caplog.text
    assert [value for status, value in got if status == 200] == [[2, 2, 2], [4, 4, 4], [6, 6, 6]]


def test_a_shape_that_never_went_through_is_the_senders_fault() -> None:
    handler = handler_factory(Double).load(None)
    assert ask(handler, b"[1, 2, 3]")[0][0] == 200
    ((status, problem),) = ask(handler, b"[1, 2, 3, 4]")
    assert status == 400
    assert problem["expected"] == [{"shape": [3], "dtype": "float32"}]
    assert problem["got"] == {"shape": [4], "dtype": "float32"}


def test_exceptions_of_the_authors_functions_stay_with_their_sample() -> None:
    def preprocess(sample: Any) -> Tensor:
        if sample[0] == 7:
            raise BadSample("no sevens", expected={"first": "not 7"}, status=422)
        if sample[0] == 8:
            raise ZeroDivisionError("eight")
        return torch.tensor(sample)

    def postprocess(output: Tensor) -> object:
        return {2.0: "fine", 4.0: object(), 6.0: Raw(b"\x00", "image/png")}[output[0].item()]

    handler = handler_factory(Double, preprocess, postprocess).load(None)
    answers = handler.predict([b"[%d, 0, 0]" % n for n in (1, 7, 8, 2, 3, 9)], JSON)
    assert [answer.status for answer in answers] == [200, 422, 400, 500, 200, 422]
    assert answers[0].json() == "fine"
    assert answers[1].json() == {
        "type": "urn:torchrelay:problem:bad-sample", "title": "Unprocessable Entity", "status": 422,
        "detail": "no sevens", "expected": {"first": "not 7"},
    }  # fmt: skip
    assert "ZeroDivisionError" in answers[2].json()["detail"]  # type: ignore[index] # JSON's type is not known
    assert answers[4] == Answer(200, b"\x00", "image/png")


def test_instances_are_answered_as_predictions_and_name_the_one_at_fault() -> None:
    handler = handler_factory(Double).load(None)
    good = b'{"instances": [[1, 2, 3], [4, 5, 6]]}'
    bad = b'{"instances": [[1, 2, 3], [4, null, 6]]}'
    (_, first), (status, problem), (_, last) = ask(handler, good, bad, b"[1, 1, 1]")
    assert first == {"predictions": [[2, 4, 6], [8, 10, 12]]}
    assert (status, problem["instance"]) == (400, 1)
    assert last == [2, 2, 2]


def test_several_inputs_reach_the_network_by_place_or_by_name() -> None:
    class Two(nn.Module):
        def forward(self, a: Tensor, b: Tensor) -> dict[str, Tensor]:
            return {"sum": a + b, "first": a}

    by_place = handler_factory(Two, lambda s: (torch.tensor(s[0]), torch.tensor(s[1]))).load(None)
    by_name = handler_factory(Two, lambda s: {"b": torch.tensor(s[1]), "a": torch.tensor(s[0])}).load(None)
    for handler in (by_place, by_name):
        assert ask(handler, b"[1.0, 2.0]", b"[3.0, 4.0]") == [(200, {"sum": 3.0, "first": 1.0}), (200, {"sum": 7.0, "first": 3.0})]


def test_integers_reach_an_embedding_as_integers() -> None:
    handler = handler_factory(lambda: nn.Embedding(5, 2)).load(None)
    assert len(ask(handler, b"[1, 2, 4]")[0][1]) == 3


def test_images_arrive_as_pillow_images_unless_bytes_are_asked_for() -> None:
    def preprocess(sample: Any) -> Tensor:
        assert isinstance(sample, Image.Image)
        return torch.tensor(sample.getpixel((0, 0)))

    buffer = io.BytesIO()
    Image.new("L", (2, 2), 7).save(buffer, "PNG")
    handler = handler_factory(Double, preprocess).load(None)
    assert ask(handler, buffer.getvalue(), content_type="image/png") == [(200, [14, 14, 14])]
    assert ask(handler, buffer.getvalue()[:45], content_type="image/png")[0][0] == 400
    raw = handler_factory(Double, lambda sample: torch.tensor(list(sample[:3])), options={"input": "bytes"}).load(None)
    assert ask(raw, b"\x01\x02\x03\x04", content_type="image/png") == [(200, [2, 4, 6])]
    assert ask(raw, b"[1]")[0][0] == 415
    assert ask(raw, b'"AQID"', b'{"b64": "AQID"}', b'"%"') == [(200, [2, 4, 6]), (200, [2, 4, 6]), (400, ANY)]
    text = base64.b64encode(buffer.getvalue())
    assert ask(handler, b'{"b64": "%s"}' % text, b'{"b64": 3}') == [(200, [14, 14, 14]), (400, ANY)]


def test_nan_is_null_or_refused() -> None:
    class Log(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.log()

    assert ask(handler_factory(Log).load(None), b"[1, -1]") == [(200, [0.0, None])]
    refusing = handler_factory(Log, options={"nan": "refuse"}).load(None)
    assert [status for status, _ in ask(refusing, b"[1, -1]", b"[1, 1]")] == [422, 200]


def test_half_precision_is_one_option() -> None:
    handler = handler_factory(lambda: nn.Linear(3, 1), options={"precision": "bfloat16"}).load(None)
    assert ask(handler, b"[1, 2, 3]")[0][0] == 200
    assert handler.steps.network_input.dtype == torch.bfloat16


def test_a_lost_device_answers_503_to_all_and_says_so() -> None:
    class Sticky(nn.Module):
        def forward(self, _: Tensor) -> Tensor:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    handler = handler_factory(Sticky).load(None)
    answers = handler.predict([b"[1]", b"{", b"[2]"], JSON)
    assert [answer.status for answer in answers] == [503, 400, 503]
    assert answers[0].headers == {"retry-after": "5"}
    assert handler.lost
    assert [answer.status for answer in handler.predict([b"[1]"], JSON)] == [503]


def test_an_unforeseen_error_affects_only_its_request(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    handler = handler_factory(Double, postprocess_function=lambda output: output.tolist() if output[0] != 2 else deep()).load(None)
    assert [status for status, _ in ask(handler, b"[1, 1, 1]", b"[2, 2, 2]")] == [500, 200]
    monkeypatch.setattr(intake, "decode", lambda request, most: decode(request, most) if request.body != b"[3]" else 1 / 0)
    assert [status for status, _ in ask(handler, b"[3]", b"[2, 2, 2]")] == [500, 200]
    assert "ZeroDivisionError" in caplog.text
    assert "RecursionError" in caplog.text


def deep() -> object:
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    return value


def test_a_problem_does_not_quote_the_whole_body() -> None:
    def preprocess(sample: Any) -> Tensor:
        raise ValueError(f"what is {sample}?")

    (answer,) = handler_factory(Double, preprocess).load(None).predict([json.dumps("x" * 10_000).encode()], JSON)
    assert answer.status == 400
    assert len(answer.body) < 800


def test_unknown_options_are_refused_with_the_nearest_right_one() -> None:
    with pytest.raises(ValueError, match="did you mean precision"):
        handler_factory(Double, options={"precison": "float16"})


def test_answers_do_not_depend_on_neighbours() -> None:
    bodies = [b"[%d, %d, %d]" % (n, n + 1, 2 * n) for n in range(20)] + [b"[13, 1, 1]", b"{", b'"x"', b"[1, 2]", b"null", b""]
    handler = handler_factory(Poisoned, options={"shape": [3]}).load(None)
    assert differences(lambda some: [(a.status, a.body) for a in handler.predict(some, JSON)], bodies) == []


def test_the_check_of_neighbours_finds_a_handler_that_looks_at_the_first_only() -> None:
    def naive(bodies: list[bytes]) -> list[tuple[int, bytes]]:
        return [(200, json.dumps([2 * n for n in json.loads(bodies[0])]).encode())]

    def naive_and_padded(bodies: list[bytes]) -> list[tuple[int, bytes]]:
        return naive(bodies) * len(bodies)

    assert "2 requests, 1 answers" in differences(naive, [b"[1]", b"[2]"])
    assert differences(naive_and_padded, [b"[1]", b"[2]"]) != []
