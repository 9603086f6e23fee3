"""Bodies become samples by their content type; whatever else they are, they end in a BadSample."""

import base64
import contextlib
import io
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from torchrelay_handlers.bodies import parsers
from torchrelay_handlers.bodies.decode import decode, instances
from torchrelay_handlers.messages import Request
from torchrelay_handlers.problems import BadSample

TYPES = ["application/x-npy", "", "application/json", "application/vnd.x+json", "text/plain", "text/csv", "image/png"]
TYPES += ["application/octet-stream"]
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
        (b"\xef\xbb\xbf1,2\n", "text/csv", [[1.0, 2.0]]),
        ("1,2".encode("utf-16"), "text/csv; charset=UTF-16", [[1.0, 2.0]]),
        (b"\xef\xbb\xbf[1]", "application/json", [1]),
        ('{"\u00e9": 1}'.encode("latin-1"), "application/json; charset=ISO-8859-1", {"\u00e9": 1}),
        (b'{"a": "b:c", "d": [{"a": ":"}]}', "application/json", {"a": "b:c", "d": [{"a": ":"}]}),
    ],
)
def test_a_body_is_read_by_its_content_type(body: bytes, content_type: str, value: object) -> None:
    assert decode(Request(body, content_type)) == value


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        (b"", "application/json", 400),
        (b"{", "application/json", 400),
        (b"\xff", "application/json", 400),
        (b"[NaN]", "application/json", 400),
        (b"[" * 100_000, "application/json", 400),
        (b"\xff", "text/plain", 400),
        (b"a", "text/plain; charset=nonsense", 415),
        (b"a", "text/plain; charset=idna", 415),
        (b"a", "text/plain; charset=unicode_escape", 415),
        (b"[1]", "application/json; charset=rot13", 415),
        (b"a", 'text/plain; charset="\x00"', 415),
        (b"1_0,2\n", "text/csv", 400),
        (b"[1e400]", "application/json", 400),
        (b"[" + b"9" * 400 + b"]", "application/json", 400),
        (b'{"a": 1, "a": 2}', "application/json", 400),
        (b'{"a": 1, "a": 2}', "", 400),
        (b'[[1.5, {"a": 1, "\\u0061": 2}]]', "application/json", 400),
        (b'{"a": ":", "b": 1, "b": 2}', "application/json", 400),
        (b'{"a": ' * 900 + b'{"b": 1, "b": 2}' + b"}" * 900, "application/json", 400),
        (b"PK\x03\x04", "application/x-npy", 400),
        (b"1,x\n", "text/csv", 400),
        (b"\n", "text/csv", 400),
        (b"a=1&b=2", "application/x-www-form-urlencoded", 415),
        (b"no parts", "multipart/form-data; boundary=b", 400),
        (b"--b\r\n\r\none\r\n--b--", "multipart/form-data", 400),
    ],
)
def test_a_wrong_body_is_refused(body: bytes, content_type: str, status: int) -> None:
    with pytest.raises(BadSample) as refused:
        decode(Request(body, content_type))
    assert refused.value.status == status


def test_without_orjson_the_standard_library_refuses_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parsers, "orjson", None)
    assert parsers.parse_json(b'{"a": [1, 2.5]}') == {"a": [1, 2.5]}
    wrong = (b"{", b"[NaN]", b"[Infinity]", b"\xff", b"[" * 100_000, b"[1e400]", b"[" + b"9" * 5000 + b"]", b'{"a":1,"a":1}')
    for body in wrong:
        with pytest.raises(BadSample):
            parsers.parse_json(body)


def test_a_form_of_one_file_is_that_file_and_of_several_a_dict() -> None:
    part = b'--b\r\nContent-Disposition: form-data; name="%s"; filename="x"\r\nContent-Type: image/png\r\n\r\n%s\r\n'
    kind = "multipart/form-data; boundary=b"
    assert decode(Request(part % (b"image", b"\x89PNG\x00\r\n\xff") + b"--b--\r\n", kind)) == b"\x89PNG\x00\r\n\xff"
    both = part % (b"image", b"one") + part % (b"mask", b"two") + b"--b--\r\n"
    assert decode(Request(both, kind)) == {"image": b"one", "mask": b"two"}


PART = b'--b\r\nContent-Disposition: form-data; name="%s"\r\n%s\r\n%s\r\n'
FORM = "multipart/form-data; boundary=b"


@pytest.mark.parametrize(
    ("header", "body", "value"),
    [
        (b"", b"hello", "hello"),
        (b"", b" [1, 2]", [1, 2]),
        (b"", b"\x89PNG\r\n\x1a\n", b"\x89PNG\r\n\x1a\n"),
        (b"Content-Type: application/json\r\n", b"3", 3),
        (b"Content-Type: text/csv\r\n", b"1,2\n3,4", [[1.0, 2.0], [3.0, 4.0]]),
        (b"Content-Type: text/plain; charset=latin-1\r\n", b"\xe9", "\u00e9"),
        (b"Content-Type: application/octet-stream\r\n", b"\x00\r\n--\r\n", b"\x00\r\n--\r\n"),
    ],
)
def test_a_part_is_read_by_its_own_content_type(header: bytes, body: bytes, value: object) -> None:
    assert decode(Request(PART % (b"data", header, body) + b"--b--", FORM)) == value


GOOD_PART = PART % (b"a", b"", b"1")


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (GOOD_PART, 400),  # no end
        (GOOD_PART + GOOD_PART + b"--b--", 400),  # one name twice
        (GOOD_PART + b"--b--\r\nmore", 400),
        (b"--b--", 400),
        (b"--b\r\nno end of header--b--", 400),
        (b"--b\r\n" + b"X: " + b"y" * 5000 + b"\r\n\r\nbody\r\n--b--", 400),
        (PART % (b"a", b"Content-Transfer-Encoding: base64\r\n", b"MQ==") + b"--b--", 415),
        (PART % (b"a", b"Content-Type: multipart/mixed; boundary=c\r\n", b"--c--") + b"--b--", 415),
        (PART % (b"a", b"Content-Type: application/json\r\n", b"") + b"--b--", 400),
        (b"".join(PART % (b"p%d" % place, b"", b"1") for place in range(65)) + b"--b--", 413),
    ],
)
def test_a_wrong_form_is_refused(body: bytes, status: int) -> None:
    with pytest.raises(BadSample) as refused:
        decode(Request(body, FORM))
    assert refused.value.status == status


def npy(array: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6.0).reshape(2, 3), np.asfortranarray(np.arange(6).reshape(2, 3)), np.array([True]), np.array(3.5, "f2"),
        np.arange(4, dtype=">i4"), np.zeros((0, 3)),
    ],
)  # fmt: skip
def test_npy_bodies_are_arrays(array: Any) -> None:
    got: Any = decode(Request(npy(array), "application/x-npy"))
    np.testing.assert_array_equal(got, array)
    assert got.dtype.isnative


def claimed(shape: str, data: bytes = b"") -> bytes:
    """An .npy file whose header claims `shape`."""
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}}}".encode()
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data


@pytest.mark.parametrize(
    "body",
    [
        b"", b"\x93NUMPY", b"\x93NUMPY\x09\x00\x00\x00", npy(np.arange(9))[:-1], npy(np.arange(9)) + b"x",
        npy(np.array([{}], object), allow_pickle=True), npy(np.array(["a"])), npy(np.array([1j])),
        claimed("(10**12,)"), claimed("(1000000000000,)"), claimed("(-1, -1)", b"\0" * 8), claimed("('a',)"), claimed("(" * 90),
        claimed("(" + "1," * 64 + ")", b"\0" * 8),
    ],
)  # fmt: skip
def test_wrong_npy_bodies_are_refused_before_anything_is_allocated(body: bytes) -> None:
    with pytest.raises(BadSample) as refused:
        parsers.parse_npy(body)
    assert refused.value.kind == "bad-npy"


@pytest.mark.filterwarnings("ignore:Reading `.npy`:UserWarning")
@given(st.binary(max_size=60), st.integers(0, 140))
def test_any_bytes_are_npy_or_a_refusal(noise: bytes, at: int) -> None:
    whole = npy(np.arange(3.0))
    for body in (noise, whole[:at] + noise + whole[at:], whole[:at] + noise + whole[at + len(noise) :]):
        with contextlib.suppress(BadSample):
            parsers.parse_npy(body)


_NAMES = st.text("abcdefgh", min_size=1, max_size=5)


@given(st.dictionaries(_NAMES, st.binary(min_size=1, max_size=50), min_size=1, max_size=5))
def test_any_form_gives_back_its_parts(fields: dict[str, bytes]) -> None:
    header = b"Content-Type: application/x-bytes\r\n"
    body = b"".join(PART % (name.encode(), header, value) for name, value in fields.items()) + b"--b--\r\n"
    if any(b"\r\n--b" in b"\r\n" + value for value in fields.values()):
        return
    got = decode(Request(body, FORM))
    assert got == (fields if len(fields) > 1 else next(iter(fields.values())))


@given(st.text(max_size=80) | st.text('0123456789.,-+eE \n"_naif', max_size=60))
def test_any_text_is_csv_or_a_refusal(text: str) -> None:
    with contextlib.suppress(BadSample):
        assert all(type(number) is float for row in parsers.parse_csv(text) for number in row)


@given(st.text('{}[]:,"ab1 \\', max_size=40))
def test_repeated_keys_are_refused_and_nothing_else_is(text: str) -> None:
    repeated = False

    def pairs(members: list[tuple[str, object]]) -> dict[str, object]:
        nonlocal repeated
        repeated = repeated or len(dict(members)) != len(members)
        return dict(members)

    try:
        wanted = json.loads(text, object_pairs_hook=pairs)
    except ValueError:
        return
    if repeated:
        with pytest.raises(BadSample, match="is given twice"):
            parsers.parse_json(text)
    else:
        assert parsers.parse_json(text) == wanted


def test_instances_are_samples_and_anything_like_them_is_not() -> None:
    wrong: list[object] = [{"instances": []}, {"instances": 3}, {"instances": [1], "parameters": {"k": 2}}]
    assert instances({"instances": [1, [2]]}, 8) == [1, [2]]
    assert instances({"instances": [1], "parameters": None}, 8) == [1]
    assert instances({"instances": [1], "more": 2}, 8) is None
    assert instances([1], 8) is None
    for body in wrong:
        with pytest.raises(BadSample):
            instances(body, 8)
    with pytest.raises(BadSample) as refused:
        instances({"instances": [1, 2, 3]}, 2)
    assert refused.value.status == 413


@given(st.binary(max_size=200), st.integers(0, 80))
def test_base64_gives_back_the_bytes(data: bytes, width: int) -> None:
    text = base64.b64encode(data).decode()
    lines = "\n".join(text[i : i + width] for i in range(0, len(text), width)) if width else text
    assert parsers.parse_base64(lines) == data
    assert parsers.parse_base64("data:image/png;base64," + text) == data


@pytest.mark.parametrize("text", ["%%%%", "YQ", "YQ=", "Y Q==", "YQ==YQ==x", "data:,YQ==", "\u00e9", "YWJj-_=="])
def test_base64_is_strict(text: str) -> None:
    with pytest.raises(BadSample):
        parsers.parse_base64(text)


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
    assert decode(Request(body, "application/json")) == value


@settings(max_examples=300)
@given(st.binary(max_size=120), st.sampled_from(TYPES) | st.text(max_size=20))
@example(b'"\x00', "text/csv")
@example(b"--b\r\n\r\n\r\n--b--", "multipart/form-data; boundary=b")
def test_nothing_but_a_refusal_leaves_the_parsers(body: bytes, content_type: str) -> None:
    try:
        instances(decode(Request(body, content_type)), 8)
    except BadSample as refused:
        assert 400 <= refused.status <= 499  # noqa: PT017 - most bodies are fine
