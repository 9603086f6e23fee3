"""Bodies that are not JSON, or that are ambiguous JSON; no model accepts them."""

from __future__ import annotations

import gzip
import json
import pickle

from tests.container.corpus.case import Case, cases

NO_JSON = "not valid JSON"
_NUMBERS = (
    "NaN",
    "Infinity",
    "-Infinity",
    "nan",
    "inf",
    "0x10",
    "01",
    "+1",
    ".5",
    "1.",
    "1e",
    "--1",
    "1_000",
    "1,5e",
    "\u0661",
    "\uff11",
)
_WORDS = ("undefined", "True", "None", "nil", "nul", "truefalse", "yes", "#", "@", "\\", "*", "1 2", "a", "'a'", "`a`", "NULL")
_STRINGS = (
    r'"\x41"',
    r'"\u12"',
    r'"\uZZZZ"',
    r'"\ud800"',
    r'"\udc00\ud800"',
    '"a',
    '"a\nb"',
    '"a\tb"',
    '"a\0b"',
    '"\\"',
    r'"\8"',
    '""""',
)
_BYTES = (b"\xff", b"\xc0\x80", b"\xe2\x82", b"\xed\xa0\x80", b"\xf5\x80\x80\x80", b"\x80", b"gr\xfcn", b"\xf0\x9f\x98")


def broken(name: str, good: str) -> list[Case]:
    """Bad JSON around `good`, a JSON object or list as text; `name` is a key that the model knows."""
    size = len(good)
    shapes = [
        *((f"cut after {part} of 8", good[: size * part // 8]) for part in range(1, 8)),
        ("last character missing", good[:-1]),
        ("first character missing", good[1:]),
        ("twice", good + good),
        ("two lines", f"{good}\n{good}"),
        ("comma after it", good + ","),
        ("trailing comma", good[:-1] + "," + good[-1]),
        ("leading comma", good[0] + "," + good[1:]),
        ("wrong bracket", good[:-1] + ("]" if good[-1] == "}" else "}")),
        ("one bracket more", good + good[-1]),
        ("semicolon", good + ";"),
        ("line comment", f"// a comment\n{good}"),
        ("block comment", f"/* a comment */{good}"),
        ("hash comment", f"{good} # a comment"),
        ("callback", f"callback({good})"),
        ("guarded", f")]}}',\n{good}"),
        ("no-break space", f"\u00a0{good}"),
        ("form feed", f"\f{good}"),
        ("zero byte after it", f"{good}\0"),
        ("zero byte before it", f"\0{good}"),
        ("two byte order marks", f"\ufeff\ufeff{good}"),
        ("white space alone", "  \r\n\t"),
        ("single quotes", "{'" + name + "': 1}"),
        ("bare key", "{" + name + ": 1}"),
        ("no colon", '{"' + name + '" 1}'),
        ("two colons", '{"' + name + '":: 1}'),
        ("no value", '{"' + name + '":}'),
        ("no key", "{: 1}"),
        ("number as key", "{1: 1}"),
        ("no comma", "[1 2]"),
        ("two commas", "[1,,2]"),
        ("xml", "<data><item>1</item></data>"),
        ("html", "<!doctype html><title>1</title>"),
        ("yaml", "data:\n- 1\n- 2\n"),
        ("form", "data=1&more=2"),
        ("toml", "data = [1, 2]\n"),
    ]
    corpus = cases("no json", shapes, says=NO_JSON)
    corpus += cases("no number", ((text, f'{{"{name}": [{text}]}}') for text in _NUMBERS), says=NO_JSON)
    corpus += cases(
        "too large a number", ((text, f'{{"{name}": [{text}]}}') for text in ("1e999", "-1e999", "9" * 5000)), says="JSON|number"
    )
    corpus += cases("no value", ((text, f'{{"{name}": {text}}}') for text in _WORDS), says=NO_JSON)
    corpus += cases("no string", ((repr(text), f'{{"{name}": {text}}}') for text in _STRINGS), says=NO_JSON)
    corpus += cases("no utf-8", ((repr(raw), b'{"' + name.encode() + b'": "' + raw + b'"}') for raw in _BYTES), says=NO_JSON)
    encodings = ((kind, good.encode(kind)) for kind in ("utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp037"))
    corpus += cases("another encoding", (pair for pair in encodings if pair[1] != good.encode()), says=NO_JSON)
    corpus += cases(
        "nesting",
        [
            ("100000 lists, open", "[" * 100_000),
            ("100000 objects, open", '{"a":' * 100_000),
            ("2000 lists", "[" * 2000 + "]" * 2000),
            ("2000 objects", '{"a":' * 2000 + "1" + "}" * 2000),
            ("lists and objects", '[{"a":' * 1500 + "1" + "}]" * 1500),
        ],
        says=NO_JSON,
    )
    corpus += cases(
        "a key twice",
        [
            ("same value", f'{{"{name}": 1, "{name}": 1}}'),
            ("other value", f'{{"{name}": [1], "{name}": null}}'),
            ("escaped", f'{{"{name}": 1, "\\u{ord(name[0]):04x}{name[1:]}": 2}}'),
            ("within", f'{{"{name}": {{"a": 1, "a": 2}}}}'),
            ("in a list", '{"instances": [{"a": 1, "a": 2}]}'),
            ("thrice", f'{{"{name}": 1, "b": 2, "{name}": 3, "{name}": 4}}'),
            ("empty key", '{"": 1, "": 2}'),
        ],
        says="given twice",
    )
    corpus += cases(
        "another format",
        [
            ("gzip", gzip.compress(good.encode(), mtime=0)),
            ("pickle", pickle.dumps([1, 2, 3])),
            ("msgpack", b"\x93\x01\x02\x03"),
            ("cbor", b"\x83\x01\x02\x03"),
            ("protobuf", b"\x0a\x03\x01\x02\x03"),
            ("zip", b"PK\x03\x04" + bytes(26)),
            ("zeros", bytes(64)),
            ("bytes", bytes(range(256))),
        ],
        says=NO_JSON,
    )
    corpus.append(Case("empty body", b"", "application/json", says="empty"))
    return corpus


def typed(good: bytes, prefix: str) -> list[Case]:
    """A good JSON body under content types and headers that make it something else, and under odd ones that do not."""
    charsets = ("nonsense", "idna", "rot13", "utf-9", "cp1251", "big5", "base64", "unicode_escape", "punycode")
    corpus = [Case(f"{prefix}: charset {name}", good, f"application/json; charset={name}", says="charset") for name in charsets]
    wide = ("utf-16", "utf-32", "utf-16-le")
    # UTF-16 makes other characters of the bytes, or refuses an odd number of them.
    corpus += [Case(f"{prefix}: read as {name}", good, f"application/json; charset={name}", says="JSON|not text") for name in wide]
    corpus += [
        Case(f"{prefix}: as {kind}", good, kind, wanted="answered")
        for kind in (
            "application/json;charset=UTF-8",
            "Application/Json",
            "application/vnd.x+json; q=1",
            "application/json;",
            ";",
            "",
        )
    ]
    headers = (
        (("X-" + "y" * 200, "z" * 2000),),
        (("Accept", "\u00e9/*;q=x"),),
        (("Accept", "text/html"),),
    )
    corpus += [
        Case(f"{prefix}: header {pairs[0][0][:20]} {pairs[0][1][:10]}", good, "application/json", pairs, wanted="answered")
        for pairs in headers
    ]
    encoded = (("Content-Encoding", "gzip"),)
    return [*corpus, Case(f"{prefix}: said to be compressed", good, "application/json", encoded, says="encoding")]


def in_other_places(values: dict[str, object], around: dict[str, str], says: str, prefix: str) -> list[Case]:
    """Every value in every place: `around` are JSON texts with one %s."""
    bodies = (
        (f"{what} {where}", text.replace("%s", json.dumps(value)))
        for where, text in around.items()
        for what, value in values.items()
    )
    return cases(prefix, bodies, says=says)
