"""Bodies become samples by their content type; whatever else they are, they end in a BadSample."""

import base64
import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from torchrelay_handlers import inputs
from torchrelay_handlers.messages import Request
from torchrelay_handlers.problems import BadSample

TYPES = ["", "application/json", "application/vnd.x+json", "text/plain", "text/csv", "image/png", "application/octet-stream"]
TYPES += [
    "multipart/form-data; boundary=b",
    "multipart/form-data",
    "application/x-www-form-urlencoded",
    "text/plain; charset=nonsense",
]


@pytest.mark.parametrize(
    ("body", "content_type", "value"),
    [
        (b"[1, 2]", "application/json", [1, 2]),
        (b"[1, 2]", "Application/JSON; charset=utf-8", [1, 2]),
        (b'{"a": 1}', "application/vnd.x+json", {"a": 1}),
        (b"[1, 2]", "", [1, 2]),
        (b"\x00\x01", "", b"\x00\x01"),
        (b"[1, 2]", "application/octet-stream", [1, 2]),
        (b"[1, 2]", "application/x-www-form-urlencoded", [1, 2]),
        (b"[1, 2]", "image/png", b"[1, 2]"),
        ("gr\u00fcn".encode(), "text/plain", "gr\u00fcn"),
        ("gr\u00fcn".encode("latin-1"), "text/plain; charset=latin-1", "gr\u00fcn"),
        (b"1,2\r\n3,4\r\n", "text/csv", [[1.0, 2.0], [3.0, 4.0]]),
    ],
)
def test_a_body_is_read_by_its_content_type(body: bytes, content_type: str, value: object) -> None:
    assert inputs.decode(Request(body, content_type)) == value


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        (b"", "application/json", 400),
        (b"{", "application/json", 400),
        (b"\xff", "application/json", 400),
        (b"[NaN]", "application/json", 400),
        (b"[" * 100_000, "application/json", 400),
        (b"\xff", "text/plain", 400),
        (b"a", "text/plain; charset=nonsense", 400),
        (b"1,x\n", "text/csv", 400),
        (b"\n", "text/csv", 400),
        (b"a=1&b=2", "application/x-www-form-urlencoded", 415),
        (b"no parts", "multipart/form-data; boundary=b", 400),
    ],
)
def test_a_wrong_body_is_refused(body: bytes, content_type: str, status: int) -> None:
    with pytest.raises(BadSample) as refused:
        inputs.decode(Request(body, content_type))
    assert refused.value.status == status


def test_without_orjson_the_standard_library_refuses_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "orjson", None)
    assert inputs.parse_json(b'{"a": [1, 2.5]}') == {"a": [1, 2.5]}
    for body in (b"{", b"[NaN]", b"[Infinity]", b"\xff", b"[" * 100_000):
        with pytest.raises(BadSample):
            inputs.parse_json(body)


def test_a_form_of_one_file_is_that_file_and_of_several_a_dict() -> None:
    part = b'--b\r\nContent-Disposition: form-data; name="%s"; filename="x"\r\nContent-Type: image/png\r\n\r\n%s\r\n'
    kind = "multipart/form-data; boundary=b"
    assert inputs.decode(Request(part % (b"image", b"\x89PNG\x00\r\n\xff") + b"--b--\r\n", kind)) == b"\x89PNG\x00\r\n\xff"
    both = part % (b"image", b"one") + part % (b"mask", b"two") + b"--b--\r\n"
    assert inputs.decode(Request(both, kind)) == {"image": b"one", "mask": b"two"}


def test_instances_are_samples_and_anything_like_them_is_not() -> None:
    wrong: list[object] = [{"instances": []}, {"instances": 3}, {"instances": [1], "parameters": {"k": 2}}]
    assert inputs.instances({"instances": [1, [2]]}, 8) == [1, [2]]
    assert inputs.instances({"instances": [1], "parameters": None}, 8) == [1]
    assert inputs.instances({"instances": [1], "more": 2}, 8) is None
    assert inputs.instances([1], 8) is None
    for body in wrong:
        with pytest.raises(BadSample):
            inputs.instances(body, 8)
    with pytest.raises(BadSample) as refused:
        inputs.instances({"instances": [1, 2, 3]}, 2)
    assert refused.value.status == 413


@given(st.binary(max_size=200), st.integers(0, 80))
def test_base64_gives_back_the_bytes(data: bytes, width: int) -> None:
    text = base64.b64encode(data).decode()
    lines = "\n".join(text[i : i + width] for i in range(0, len(text), width)) if width else text
    assert inputs.parse_base64(lines) == data
    assert inputs.parse_base64("data:image/png;base64," + text) == data


@pytest.mark.parametrize("text", ["%%%%", "YQ", "YQ=", "Y Q==", "YQ==YQ==x", "data:,YQ==", "\u00e9", "YWJj-_=="])
def test_base64_is_strict(text: str) -> None:
    with pytest.raises(BadSample):
        inputs.parse_base64(text)


_JSON_VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


@given(_JSON_VALUES)
def test_any_json_value_is_read_as_it_is(value: Any) -> None:
    try:
        body = json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # lone surrogates, which no UTF-8 body can hold
        return
    assert inputs.decode(Request(body, "application/json")) == value


@settings(max_examples=300)
@given(st.binary(max_size=120), st.sampled_from(TYPES) | st.text(max_size=20))
@example(b'"\x00', "text/csv")
@example(b"--b\r\n\r\n\r\n--b--", "multipart/form-data; boundary=b")
def test_nothing_but_a_refusal_leaves_the_parsers(body: bytes, content_type: str) -> None:
    try:
        inputs.instances(inputs.decode(Request(body, content_type)), 8)
    except BadSample as refused:
        assert 400 <= refused.status <= 499  # noqa: PT017 - most bodies are fine
