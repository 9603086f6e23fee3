"""Bad multipart/form-data for the tensor handler with shape [4]: wrong forms, and forms of wrong parts."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np

from tests.container.corpus.arrays import npy
from tests.container.corpus.case import Case
from tests.container.corpus.tensors import GOOD

FORM = "multipart/form-data; boundary=b"
_TEXT = json.dumps(GOOD)


def part(body: bytes | str, content_type: str = "", *, name: str = 'name="data"', more: str = "") -> bytes:
    """One part, without the boundary after it."""
    kind = f"Content-Type: {content_type}\r\n" if content_type else ""
    head = f"--b\r\nContent-Disposition: form-data; {name}\r\n{kind}{more}\r\n"
    return head.encode("utf-8", "surrogatepass") + (body.encode() if isinstance(body, str) else body) + b"\r\n"


def form(*parts: bytes) -> bytes:
    """A whole form."""
    return b"".join(parts) + b"--b--\r\n"


def form_cases() -> list[Case]:
    """Forms of one part that is wrong, and wrong forms."""
    corpus = [Case(f"part: {name}", form(part(body, kind)), FORM) for name, body, kind in _parts()]
    corpus += [
        Case(f"file: {name}", form(part(body, kind, name='name="data"; filename="x"')), FORM)
        for name, body, kind in _parts()
        if kind
    ]
    corpus += [Case(f"form: {name}", body, FORM, wanted="refused") for name, body in _forms()]
    corpus += [Case(f"form odd: {name}", body, FORM, wanted="either") for name, body in _odd()]
    good = form(part(_TEXT, "application/json"))
    boundaries = (
        "",
        "boundary",
        "boundary=",
        'boundary=""',
        "boundary=c",
        "boundary=--b",
        "boundary=B",
        "boundary=" + "b" * 200,
        "boundary=b b",
        "charset=utf-8",
    )
    corpus += [Case(f"boundary: {boundary[:20]!r}", good, f"multipart/form-data; {boundary}") for boundary in boundaries]
    kinds = (
        "multipart/mixed; boundary=b",
        "multipart/related; boundary=b",
        "multipart/byteranges; boundary=b",
        "multipart/x; boundary=b",
        "multipart/",
        "message/rfc822",
    )
    corpus += [Case(f"type: {kind}", good, kind) for kind in kinds]
    corpus += [Case(f"body: {name}", body, FORM) for name, body in _bodies()]
    legal = [
        ("json", part(_TEXT, "application/json")),
        ("json file", part(_TEXT, "application/json", name='name="data"; filename="a.json"')),
        ("csv", part("1,2,3,4", "text/csv")),
    ]
    legal += [
        ("npy", part(npy(np.array(GOOD, "<f4")), "application/x-npy")),
        ("no type", part(_TEXT)),
        ("any name", part(_TEXT, name='name="anything"')),
    ]
    corpus += [Case(f"legal: {name}", form(one), FORM, wanted="answered") for name, one in legal]
    return [*corpus, Case("oversize", form(part("1" * (1 << 21))), FORM, says="larger")]


def _parts() -> Iterator[tuple[str, bytes | str, str]]:
    """Wrong parts, by the content type that they give themselves."""
    values: tuple[object, ...] = (
        None,
        True,
        "1.5",
        {},
        {"x": GOOD},
        [],
        [1],
        [1, 2, 3],
        [1, 2, 3, 4, 5],
        [1, 2, 3, None],
        [1, 2, 3, "4"],
        [[1], [2]],
        [1e39, 1, 1, 1],
    )
    for value in values:
        yield f"json {json.dumps(value)}", json.dumps(value), "application/json"
    for text in (
        "",
        "{",
        "[1, 2",
        "[1,]",
        "NaN",
        "[NaN, 1, 2, 3]",
        '{"a": 1, "a": 2}',
        "[" * 5000,
        "\ufeff\ufeff[1]",
        "<a/>",
        "'a'",
    ):
        yield f"json {text[:12]!r}", text, "application/json"
    for raw in (b"\xff", b"[\xc0\x80]", b"\0", b"[1, 2, 3, 4]\0"):
        yield f"json {raw!r}", raw, "application/json"
    for text in ("", "a,b,c,d", "1,2,3", "1,2,3,4,5", "1,2,3,x", "1;2;3;4", '"1,2,3,4', "nan,1,2,3", "1,2,3,4\n1,2"):
        yield f"csv {text!r}", text, "text/csv"
    row = npy(np.array(GOOD, "<f4"))
    wrong = {
        "empty": b"",
        "cut": row[:60],
        "no npy": b"hello",
        "shape": npy(np.ones(5)),
        "text": npy(np.array(["a"] * 4)),
        "nan": npy(np.full(4, np.nan)),
    }
    for name, body in wrong.items():
        yield f"npy {name}", body, "application/x-npy"
    for kind in (
        "text/plain",
        "text/plain; charset=nonsense",
        "image/png",
        "application/json; charset=nonsense",
        "text/html",
        "application/xml",
        "x/y",
    ):
        yield kind, _TEXT, kind
    yield "no type, text", "hello", ""
    yield "no type, broken", "[1, 2", ""
    yield "no type, nothing", "", ""
    yield "no type, an object", '{"x": 1}', ""
    yield "a form within", form(part(_TEXT)), "multipart/form-data; boundary=c"


def _forms() -> Iterator[tuple[str, bytes]]:
    """Forms of several parts, none of which is the sample."""
    good = part(_TEXT, "application/json")
    yield "two parts", form(good, part("1", name='name="id"'))
    yield "two samples", form(good, part(_TEXT, "application/json", name='name="more"'))
    yield "64 parts", form(*(part("1", name=f'name="p{place}"') for place in range(64)))
    yield "100 parts", form(*(part("1", name=f'name="p{place}"') for place in range(100)))
    yield "3000 parts", form(*(part("1", name=f'name="p{place}"') for place in range(3000)))
    yield "no part", b"--b--\r\n"
    yield "no part, lines", b"\r\n\r\n--b--\r\n"


def _odd() -> Iterator[tuple[str, bytes]]:
    """Forms that one parser takes and another refuses: either answer is right, unless it is a 5xx."""
    good = part(_TEXT, "application/json")
    yield "the same name twice", form(good, good)
    yield "no name", form(part(_TEXT, name="x=y"))
    yield "empty name", form(part(_TEXT, name='name=""'))
    yield "name of 5000 characters", form(part(_TEXT, name=f'name="{"n" * 5000}"'))
    yield "name without end", form(part(_TEXT, name='name="data'))
    yield "name with line ends", form(part(_TEXT, name='name="a\r\nb"'))
    yield "name of other letters", form(part(_TEXT, name='name="\u00e9\u4e2d"'))
    yield "name of the body", form(part(_TEXT, name='name="body"'))
    yield "name of a header", form(part(_TEXT, name='name="content-type"'))
    yield "name with a zero", form(part(_TEXT, name='name="a\0b"'))
    yield "file with a path", form(part(_TEXT, name='name="data"; filename="../../etc/passwd"'))
    yield "file with a zero", form(part(_TEXT, name='name="data"; filename="a\0b"'))
    yield "file of no name", form(part(_TEXT, name='name="data"; filename=""'))
    yield "file of 5000 characters", form(part(_TEXT, name=f'name="data"; filename="{"n" * 5000}"'))
    yield "encoded file name", form(part(_TEXT, name="name=\"data\"; filename*=utf-8''%e2%82"))
    yield "unknown charset of a file name", form(part(_TEXT, name="name=\"data\"; filename*=nonsense''x"))
    for encoding in ("base64", "quoted-printable", "nonsense", "gzip", "7bit", "8bit", "binary", ""):
        yield (
            f"encoding {encoding}",
            form(part("MQ==", name='name="data"; filename="x"', more=f"Content-Transfer-Encoding: {encoding}\r\n")),
        )
    yield "long header", form(part(_TEXT, more=f"X-Long: {'y' * 20_000}\r\n"))
    yield "many headers", form(part(_TEXT, more="".join(f"X-{place}: y\r\n" for place in range(500))))
    yield "header without colon", form(part(_TEXT, more="nonsense\r\n"))
    yield "length that is wrong", form(part(_TEXT, more="Content-Length: 3\r\n"))
    yield "length below zero", form(part(_TEXT, more="Content-Length: -3\r\n"))
    yield "length of no number", form(part(_TEXT, more="Content-Length: x\r\n"))
    yield "charset unknown", form(part(_TEXT, "text/plain; charset=nonsense", name='name="data"; filename="x"'))
    yield "charset of no letters", form(part(_TEXT, 'text/plain; charset="\u00e9 "'))
    yield "type of nonsense", form(part(_TEXT, ";;;"))
    yield (
        "mixed within",
        form(part(b'--c\r\nContent-Disposition: file; filename="x"\r\n\r\n1\r\n--c--', "multipart/mixed; boundary=c")),
    )
    yield "mixed within, no boundary", form(part(b"x", "multipart/mixed"))
    yield (
        "mixed within, no end",
        form(part(b'--c\r\nContent-Disposition: file; filename="x"\r\n\r\n1', "multipart/mixed; boundary=c")),
    )
    yield "other disposition", b'--b\r\nContent-Disposition: attachment; name="data"\r\n\r\n' + _TEXT.encode() + b"\r\n--b--\r\n"
    yield "disposition of nothing", b"--b\r\nContent-Disposition:\r\n\r\n" + _TEXT.encode() + b"\r\n--b--\r\n"
    yield "no disposition", b"--b\r\nContent-Type: application/json\r\n\r\n" + _TEXT.encode() + b"\r\n--b--\r\n"
    yield "no header", b"--b\r\n\r\n" + _TEXT.encode() + b"\r\n--b--\r\n"
    yield "words before", b"preamble\r\n" + form(good)
    yield "words after", form(good) + b"epilogue\r\n" * 10
    yield "bare line feeds", form(good).replace(b"\r\n", b"\n")
    yield "bare carriage returns", form(good).replace(b"\r\n", b"\r")
    yield "no last line end", form(good)[:-2]
    yield "white space after the boundary", form(good).replace(b"--b\r\n", b"--b   \r\n")
    yield "boundary within", form(part("--b", "application/octet-stream"))
    yield "longer boundary", form(good).replace(b"--b--", b"--bb--")


def _bodies() -> Iterator[tuple[str, bytes]]:
    """Bodies that are not a form, or end too early."""
    good = form(part(_TEXT, "application/json"))
    for size in sorted({1, 2, 3, 5, *range(8, len(good) - 6, 6)}):
        yield f"cut after {size}", good[:size]
    yield from {
        "empty": b"",
        "json": _TEXT.encode(),
        "zeros": bytes(100),
        "line ends": b"\r\n" * 50,
        "boundary alone": b"--b",
        "boundary and line end": b"--b\r\n",
        "hyphens": b"-" * 500,
        "no first boundary": good[5:],
        "end first": b"--b--\r\n" + good,
        "end alone, twice": b"--b--\r\n--b--\r\n",
        "bytes": bytes(range(256)),
        "npy": npy(np.array(GOOD)),
        "form of names": b"data=1&more=2",
        "header without end": b'--b\r\nContent-Disposition: form-data; name="data"',
        "header alone": b'--b\r\nContent-Disposition: form-data; name="data"\r\n',
        "ten thousand boundaries": b"--b\r\n" * 10_000,
    }.items()
