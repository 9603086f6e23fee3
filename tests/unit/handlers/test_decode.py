"""Bodies become samples by their content type; whatever else they are, they end in a BadSample."""

import base64
import contextlib
import io
import json
from email.parser import BytesHeaderParser
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.unit.handlers.support import Double
from torchrelay_handlers import shipped
from torchrelay_handlers.bodies import parsers
from torchrelay_handlers.bodies.decode import decode, instances
from torchrelay_handlers.messages import Request
from torchrelay_handlers.problems import BadSample

JSON, TEXT, CSV, NPY = "application/json", "text/plain", "text/csv", "application/x-npy"
FORM, URLENCODED = "multipart/form-data; boundary=b", "application/x-www-form-urlencoded"
TYPES = [NPY, "", JSON, "application/vnd.x+json", TEXT, CSV, "image/png", "application/octet-stream"]
TYPES += [FORM, "multipart/form-data", URLENCODED, "text/plain; charset=nonsense"]


def part(body: bytes, header: bytes = b"", name: bytes = b"data") -> bytes:
    return b'--b\r\nContent-Disposition: form-data; name="%s"\r\n%s\r\n%s\r\n' % (name, header, body)


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + b"--b--"


def npy(array: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


def claimed(shape: str, data: bytes = b"") -> bytes:
    """An .npy file whose header claims `shape`."""
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}}}".encode()
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data


LONG = b"[" + b"9" * 400 + b"]"
PNG = b"Content-Type: image/png\r\n"
READ: list[tuple[str, bytes, object]] = [
    (JSON, b"[1, 2]", [1, 2]),
    ("Application/JSON; charset=utf-8", b"[1, 2]", [1, 2]),
    ("application/vnd.x+json", b'{"a": 1}', {"a": 1}),
    ("", b"[1, 2]", [1, 2]),
    ("", b"\x00\x01", b"\x00\x01"),
    ("application/octet-stream", b"[1, 2]", [1, 2]),
    (URLENCODED, b"[1, 2]", [1, 2]),
    ("image/png", b"[1, 2]", b"[1, 2]"),
    (TEXT, "gr\u00fcn".encode(), "gr\u00fcn"),
    ("text/plain; charset=latin-1", "gr\u00fcn".encode("latin-1"), "gr\u00fcn"),
    (CSV, b"1,2\r\n3,4\r\n", [[1.0, 2.0], [3.0, 4.0]]),
    (CSV, b"\xef\xbb\xbf1,2\n", [[1.0, 2.0]]),
    ("text/csv; charset=UTF-16", "1,2".encode("utf-16"), [[1.0, 2.0]]),
    (JSON, b"\xef\xbb\xbf[1]", [1]),
    ("application/json; charset=ISO-8859-1", '{"\u00e9": 1}'.encode("latin-1"), {"\u00e9": 1}),
    (JSON, b'{"a": "b:c", "d": [{"a": ":"}]}', {"a": "b:c", "d": [{"a": ":"}]}),
    (FORM, form(part(b"hello")), "hello"),
    (FORM, form(part(b" [1, 2]")), [1, 2]),
    (FORM, form(part(b"\x89PNG\r\n\x1a\n")), b"\x89PNG\r\n\x1a\n"),
    (FORM, form(part(b"3", b"Content-Type: application/json\r\n")), 3),
    (FORM, form(part(b"1,2\n3,4", b"Content-Type: text/csv\r\n")), [[1.0, 2.0], [3.0, 4.0]]),
    (FORM, form(part(b"\xe9", b"Content-Type: text/plain; charset=latin-1\r\n")), "\u00e9"),
    (FORM, form(part(b"\x00\r\n--\r\n", b"Content-Type: application/octet-stream\r\n")), b"\x00\r\n--\r\n"),
    (FORM, form(part(b"\x89PNG\x00\r\n\xff", PNG)) + b"\r\n", b"\x89PNG\x00\r\n\xff"),
    (FORM, form(part(b"one", PNG, b"image"), part(b"two", PNG, b"mask")), {"image": b"one", "mask": b"two"}),
]
"""Content type, body, the value that it is read as."""

REFUSED: list[tuple[str, int, str, list[bytes]]] = [
    (JSON, 400, "empty-body", [b""]),
    (
        JSON,
        400,
        "bad-json",
        [b"{", b"\xff", b"[NaN]", b"[Infinity]", b"[" * 100_000, b"[1e400]", b"[" + b"9" * 5000 + b"]", LONG],
    ),
    (
        JSON,
        400,
        "repeated-key",
        [
            b'{"a": 1, "a": 2}',
            b'[[1.5, {"a": 1, "\\u0061": 2}]]',
            b'{"a": ":", "b": 1, "b": 2}',
            b'{"a": ' * 900 + b'{"b": 1, "b": 2}' + b"}" * 900,
        ],
    ),
    ("", 400, "repeated-key", [b'{"a": 1, "a": 2}']),
    ("application/json; charset=rot13", 415, "unsupported-charset", [b"[1]"]),
    (TEXT, 400, "bad-text", [b"\xff"]),
    ("text/plain; charset=nonsense", 415, "unsupported-charset", [b"a"]),
    ("text/plain; charset=idna", 415, "unsupported-charset", [b"a"]),
    ("text/plain; charset=unicode_escape", 415, "unsupported-charset", [b"a"]),
    ('text/plain; charset="\x00"', 415, "unsupported-charset", [b"a"]),
    (CSV, 400, "bad-csv", [b"1_0,2\n", b"1,x\n", b"\n"]),
    (URLENCODED, 415, "unsupported-media-type", [b"a=1&b=2"]),
    ("multipart/form-data", 400, "bad-multipart", [b"--b\r\n\r\none\r\n--b--"]),
    (
        FORM,
        400,
        "bad-multipart",
        [
            b"no parts",
            part(b"1"),  # no end
            form(part(b"1")) + b"\r\nmore",
            form(),
            form(b"--b\r\nno end of header"),
            form(b"--b\r\n" + b"X: " + b"y" * 5000 + b"\r\n\r\nbody\r\n"),
        ],
    ),
    (FORM, 400, "repeated-key", [form(part(b"1"), part(b"1"))]),
    (FORM, 415, "bad-multipart", [form(part(b"MQ==", b"Content-Transfer-Encoding: base64\r\n"))]),
    (FORM, 415, "unsupported-media-type", [form(part(b"--c--", b"Content-Type: multipart/mixed; boundary=c\r\n"))]),
    (FORM, 400, "empty-body", [form(part(b"", b"Content-Type: application/json\r\n"))]),
    (FORM, 413, "bad-multipart", [form(*(part(b"1", name=b"p%d" % place) for place in range(65)))]),
    (
        NPY,
        400,
        "bad-npy",  # before anything is allocated
        [
            b"PK\x03\x04", b"\x93NUMPY", b"\x93NUMPY\x09\x00\x00\x00", npy(np.arange(9))[:-1], npy(np.arange(9)) + b"x",
            npy(np.array([{}], object), allow_pickle=True), npy(np.array(["a"])), npy(np.array([1j])),
            claimed("(10**12,)"), claimed("(1000000000000,)"), claimed("(-1, -1)", b"\0" * 8), claimed("('a',)"), claimed("(" * 90),
            claimed("(" + "1," * 64 + ")", b"\0" * 8),
        ],
    ),
]  # fmt: skip
"""Content type, the refusal's status and kind, and bodies that are refused so."""

REFUSED_BODIES = [(content_type, status, kind, body) for content_type, status, kind, bodies in REFUSED for body in bodies]


@pytest.mark.parametrize(("content_type", "body", "value"), READ)
def test_a_body_is_read_by_its_content_type(content_type: str, body: bytes, value: object) -> None:
    assert decode(Request(body, content_type)) == value


def refusal(content_type: str, body: bytes) -> tuple[int, str]:
    with pytest.raises(BadSample) as refused:
        decode(Request(body, content_type))
    return refused.value.status, refused.value.kind


@pytest.mark.parametrize(("content_type", "status", "kind", "body"), REFUSED_BODIES)
def test_a_wrong_body_is_refused(content_type: str, status: int, kind: str, body: bytes) -> None:
    assert refusal(content_type, body) == (status, kind)


def test_without_orjson_the_standard_library_decides_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parsers, "orjson", None)
    for content_type, body, value in READ:
        assert decode(Request(body, content_type)) == value
    for content_type, status, kind, body in REFUSED_BODIES:
        if body != LONG:  # there, an integer can have 4300 digits
            assert refusal(content_type, body) == (status, kind)


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6.0).reshape(2, 3), np.asfortranarray(np.arange(6).reshape(2, 3)), np.array([True]), np.array(3.5, "f2"),
        np.arange(4, dtype=">i4"), np.zeros((0, 3)),
    ],
)  # fmt: skip
def test_npy_bodies_are_arrays(array: Any) -> None:
    got: Any = decode(Request(npy(array), NPY))
    np.testing.assert_array_equal(got, array)
    assert got.dtype.isnative


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
    body = form(*(part(value, header, name.encode()) for name, value in fields.items())) + b"\r\n"
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


def test_nothing_after_the_most_rows_of_a_csv_is_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[int] = []
    numbers = parsers._numbers

    def counted(row: list[str], line: int, *, plain: bool) -> list[float]:
        parsed.append(line)
        return numbers(row, line, plain=plain)

    monkeypatch.setattr(parsers, "_numbers", counted)
    for row in (b"1\n", b'"1"\n', b"\r\n1\n"):
        parsed.clear()
        with pytest.raises(BadSample, match="at most 8 samples") as refused:
            decode(Request(row * 100_000, "text/csv"), 8)
        assert refused.value.status == 413
        assert len(parsed) == 8
    assert len(parsers.parse_csv("1\n\n2\n\n", 2)) == 2
    with pytest.raises(BadSample, match="at most 8 samples"):
        decode(Request(form(part(b"1\n" * 9, b"Content-Type: text/csv\r\n")), FORM), 8)


def test_a_cell_that_is_not_a_number_is_named_with_its_line() -> None:
    for text in ("1,2\n3,x", "1,2\n3,1_0", "1_0,2\n"):
        with pytest.raises(BadSample, match=r"line [12] of the CSV: '(x|1_0)'"):
            parsers.parse_csv(text)


@pytest.mark.parametrize("filler", [b";", b'"', b";a", b"\\", b"a=b;"])
def test_long_headers_of_parts_are_refused_unread(filler: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BytesHeaderParser, "parsebytes", lambda *_: pytest.fail("read"))
    long = part(b"x", filler * 2000)
    many = form(*(part(b"x", b"X-A: " + filler * (800 // len(filler)) + b"\r\n") for _ in range(40)))
    with pytest.raises(BadSample, match="no end to its header"):
        decode(Request(form(long), FORM))
    with pytest.raises(BadSample, match="more than 16384 bytes") as refused:
        decode(Request(many, FORM))
    assert refused.value.status == 413


@pytest.mark.parametrize("parser", ["orjson", "json"])
def test_millions_of_lists_and_objects_are_refused_before_they_are_parsed(parser: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if parser == "json":
        monkeypatch.setattr(parsers, "orjson", None)
    for item in (b"[],", b"{},", b"[{}],"):
        body = b"[" + item * (1_000_001 // item.count(b"]" if item == b"[]," else b"}")) + b"1]"
        for text in (body, body.decode()):
            with monkeypatch.context() as patch:
                patch.setattr(parsers, "_by_orjson", lambda *_: pytest.fail("parsed"))
                patch.setattr(parsers, "_strict", lambda *_: pytest.fail("parsed"))
                with pytest.raises(BadSample, match="more than 1000000 lists and objects") as refused:
                    parsers.parse_json(text)
            assert refused.value.status == 413
    assert parsers.parse_json(b'["' + b"[" * 900_000 + b'", ' + b" " * 200_000 + b"1]") == ["[" * 900_000, 1]


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        (b"1,2,3\n" * 100_000, "text/csv", 413),
        (b"[" + b"[]," * 1_000_001 + b"1]", "application/json", 413),
        (b"[" + b"[[1]]," * 200_000 + b"[[1]]]", "application/json", 413),
        (form(*(part(b"x", b"X-A: " + b";" * 800 + b"\r\n") for _ in range(40))), FORM, 413),
        (form(part(b"x", b";" * 4000)), FORM, 400),
    ],
    ids=["rows", "brackets", "lists", "headers", "header"],
)
def test_the_neighbours_of_too_much_work_are_answered(body: bytes, content_type: str, status: int) -> None:
    handler = shipped.make("tensor", Double).load(None)
    good = Request(b"[1, 2, 3]", "application/json")
    first, bad, last = handler.answer([good, Request(body, content_type), good])
    assert (first.json(), bad.status, last.json()) == ([2, 4, 6], status, [2, 4, 6])
