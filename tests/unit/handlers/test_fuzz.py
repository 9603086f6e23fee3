"""Bodies that nobody wrote by hand, through whole handlers: each gets an answer or a 4xx, and none takes long."""

import json
import time
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.unit.handlers.support import FakeContext
from torchrelay_handlers import shipped
from torchrelay_handlers.adapters.torchserve import Service
from torchrelay_handlers.bodies import parsers
from torchrelay_handlers.bodies.decode import decode
from torchrelay_handlers.handler import Handler
from torchrelay_handlers.messages import JSON, Request
from torchrelay_handlers.problems import BadSample

BOM = b"\xef\xbb\xbf"
KINDS = (
    JSON,
    "text/csv",
    "text/plain",
    "application/x-npy",
    "",
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=b",
)
UNITS: tuple[bytes, ...] = (
    BOM,
    b"[",
    b'{"a":',
    b'"',
    b"\\",
    b"[1],",
    b"1,",
    b"\n",
    b"\r\n--b",
    b"--b\r\n",
    b"--b\r\n\r\n",
    b":",
    b" ",
    b"9",
    b"-",
    b"\0",
    b"\xff",
    b'"a":1,',
)
UNITS += (b"\x93NUMPY", b"\x93NUMPY\x01\x00\xff\xff(", b'""', b"data:", b"=", b"X: y\r\n")
LONGEST_S = (
    2.0  # of CPU time; what reads its body in one pass needs a tenth of it for 300 KB, what copies it again and again a minute
)


class Mean(nn.Module):
    """[N, 3, H, W] -> [N, 3]."""

    def forward(self, batch: Tensor) -> Tensor:
        return batch.mean((2, 3))


def handlers() -> dict[str, Handler]:
    return {
        "tensor": shipped.make("tensor", nn.Identity, {"shape": [2]}).load(None),
        "any tensor": shipped.make("tensor", nn.Identity).load(None),
        "image": shipped.make("image-classifier", Mean, {"size": 4}).load(None),
    }


HANDLERS = handlers()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("unit", UNITS, ids=repr)
def test_the_same_thing_very_often_is_refused_or_read_at_once(unit: bytes, kind: str) -> None:
    for body in (unit * 100_000, b'{"a": ' + unit * 100_000, b"--b\r\n\r\n" + unit * 100_000 + b"\r\n--b--"):
        before = time.process_time()
        (answer,) = HANDLERS["any tensor"].answer([Request(body, kind)])
        assert answer.status == 200 or 400 <= answer.status <= 499, answer.body[:300]
        assert time.process_time() - before < LONGEST_S


def test_only_one_byte_order_mark_is_removed() -> None:
    assert parsers.parse_json(BOM + b"[1]") == [1]
    for count in (2, 2000):
        with pytest.raises(BadSample, match="not valid JSON"):
            parsers.parse_json(BOM * count + b"[1]")


def test_an_array_without_rows_is_refused_like_an_empty_list() -> None:
    nothing: list[Any] = [np.zeros((0, 2)), []]
    for value in nothing:
        (answer,) = HANDLERS["tensor"].predict([value])
        assert (answer.status, answer.json()["detail"]) == (400, "the sample contains no numbers")  # type: ignore[index] # a problem document


_LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8)
_KEYS = st.sampled_from(["instances", "parameters", "data", "input_data", "image", "b64", "url", "text", ""]) | st.text(max_size=3)
_VALUES: st.SearchStrategy[Any] = st.recursive(
    _LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_KEYS, inner, max_size=3), max_leaves=10
)


@settings(max_examples=200)
@given(st.lists(_VALUES, min_size=1, max_size=4), st.sampled_from(sorted(HANDLERS)))
@example([{"instances": [[1, 2]]}], "tensor")
def test_any_json_is_answered_alone_and_in_company(values: list[Any], name: str) -> None:
    bodies: list[object] = [json.dumps(value).encode("utf-8", "surrogatepass") for value in values]
    answers = HANDLERS[name].predict(bodies, JSON)
    for body, together in zip(bodies, answers, strict=True):
        assert together.status == 200 or 400 <= together.status <= 499, (body, together.body[:300])
        (alone,) = HANDLERS[name].predict([body], JSON)
        assert (alone.status, alone.body) == (together.status, together.body)


_HEADER = st.text(max_size=30) | st.sampled_from(
    [JSON, "text/csv", "application/x-npy", "image/png", 'multipart/form-data; boundary="b"']
)


@settings(max_examples=200)
@given(
    st.dictionaries(_KEYS | st.sampled_from(["body", "content-type", "accept"]), st.binary(max_size=30).map(bytearray), max_size=3),
    st.dictionaries(
        st.sampled_from(["Content-Type", "Accept", "data", "body", "x"]), _HEADER | _HEADER.map(lambda kind: {"content-type": kind})
    ),
)
def test_whatever_fields_torchserve_makes_of_a_request_are_answered(row: dict[str, Any], headers: dict[str, Any]) -> None:
    service = Service(HANDLERS["tensor"])
    service.served = HANDLERS["tensor"]
    context = FakeContext("", [""])
    context.request_processor[0].headers = headers
    answers = service([row], context)
    assert answers is not None
    assert len(answers) == 1
    assert context.statuses[0] == 200 or 400 <= context.statuses[0] <= 499


@given(st.text(max_size=60) | st.text("ABCab+/=- \n", max_size=60).map("data:image/png;base64,".__add__))
def test_any_text_is_base64_or_a_refusal(text: str) -> None:
    try:
        parsers.parse_base64(text)
    except BadSample as refused:
        assert refused.kind == "bad-base64"  # noqa: PT017 - some texts are fine


@settings(max_examples=300)
@given(st.binary(max_size=60), st.binary(max_size=60), st.text(max_size=30))
def test_any_part_of_any_header_is_read_or_refused(head: bytes, body: bytes, boundary: str) -> None:
    for content in (
        b"--b\r\n" + head + b"\r\n\r\n" + body + b"\r\n--b--",
        b'--b\r\nContent-Disposition: form-data; name="x"; ' + head + b"\r\n\r\n1\r\n--b--",
    ):
        for kind in ("multipart/form-data; boundary=b", f"multipart/form-data; boundary={boundary}"):
            try:
                decode(Request(content, kind))
            except BadSample as refused:
                assert 400 <= refused.status <= 499  # noqa: PT017 - most forms are fine


def test_these_tests_notice_a_network_that_fails_on_a_sample() -> None:
    class Fails(nn.Module):
        def forward(self, batch: Tensor) -> Tensor:
            raise RuntimeError(f"no sum of {torch.numel(batch)} numbers")

    (answer,) = shipped.make("tensor", Fails).load(None).predict([b"[1, 2]"], JSON)
    assert answer.status == 500
