"""Bad requests for the text-classifier whose vocabulary is a handful of English words, without a token for what is unknown."""

from __future__ import annotations

import json

from tests.container.corpus.broken_json import broken, in_other_places, typed
from tests.container.corpus.case import Case, cases

TEXT = "text/plain"
LONGEST = 2000  # max_characters of the container
MOST = 64  # max_instances
GOOD = "red up the left"
_SCRIPTS = (
    "Ελληνικά Русский עברית العربية हिन्दी বাংলা தமிழ் ไทย ລາວ 中文 日本語 한국어 "
    "ქართული Հայերեն አማርኛ ខ្មែរ తెలుగు മലയാളം සිංහල မြန်မာ Tiếng Ñandú Þorn Žluťoučký"
)


def text_cases() -> list[Case]:
    """Texts, plain and as JSON."""
    values: dict[str, object] = {
        "null": None,
        "true": True,
        "a number": 3,
        "a fraction": 1.5,
        "an empty text": "",
        "an object": {"a": 1},
        "an empty object": {},
        "an empty list": [],
        "numbers": [1, 2],
        "nothing known": "xyzzy",
    }
    around = {
        "alone": "%s",
        "as text": '{"text": %s}',
        "as data": '{"data": %s}',
        "as input_data": '{"input_data": %s}',
        "in a list": '["red", %s]',
        "in instances": '{"instances": ["red", %s]}',
        "as the text of an instance": '{"instances": [{"text": "red"}, {"text": %s}]}',
    }
    expected = "must be a text|nothing to classify"
    corpus = in_other_places(values, around, expected + "|at least one sample", "json value")
    objects: list[tuple[str, object]] = [
        (repr(name), {name: GOOD}) for name in ("Text", "TEXT", "texts", "input", "prompt", "", "body", "sentence", "q", "\0")
    ]
    objects += [
        ("two names", {"text": GOOD, "data": GOOD}),
        ("a name too many", {"text": GOOD, "lang": "en"}),
        ("within", {"text": {"text": GOOD}}),
    ]
    objects += [
        ("a list within", {"text": [GOOD]}),
        ("lists within lists", [[GOOD]]),
        ("a text and a list", [GOOD, [GOOD]]),
        ("bytes", {"b64": "cmVk"}),
    ]
    corpus += cases("json object", ((name, json.dumps(value)) for name, value in objects), says=expected)
    wrong: tuple[object, ...] = (None, {}, "", 0, True, [], GOOD)
    instances: list[tuple[str, object]] = [(repr(value), {"instances": value}) for value in wrong]
    instances += [
        ("with parameters", {"instances": [GOOD], "parameters": [1]}),
        ("too many", {"instances": [GOOD] * (MOST + 1)}),
        ("too many texts", [GOOD] * (MOST + 1)),
    ]
    corpus += cases("json instances", ((name, json.dumps(value)) for name, value in instances), says="instances|parameters|at most")
    corpus += broken("text", json.dumps({"text": GOOD}))
    corpus += typed(json.dumps({"text": GOOD}).encode(), "json type")
    return corpus + _plain() + _legal()


def _plain() -> list[Case]:
    nothing = [
        (repr(text[:12]), text)
        for text in (
            *_SCRIPTS.split(),
            "?!",
            "...",
            "\U0001f600",
            "\0",
            "\x1b[31m",
            "\u200b",
            "123",
            "_",
            "' OR 1=1 --",
            "${jndi:ldap://x}",
            "{{7*7}}",
            "../../etc/passwd",
        )
    ]
    nothing += [
        ("white space", " \t\r\n"),
        ("byte order mark", "\ufeff"),
        ("accents alone", "\u0301" * 50),
        ("right to left", "\u202eder"),
        ("zero width", "r\u200ded"),
    ]
    nothing += [
        ("unknown words", "xyzzy " * 300),
        ("one long word", "x" * LONGEST),
        ("not a number", "NaN"),
        ("controls", "".join(map(chr, range(1, 32)))),
    ]
    corpus = cases("text of nothing known", nothing, TEXT, "nothing to classify")
    long = [(f"{size} characters", "red " * (size // 4 + 1)) for size in (LONGEST + 1, 2 * LONGEST, 100_000, 1_000_000)]
    long += [
        ("wide characters", "\U0001f600" * (LONGEST + 1)),
        ("spaces", " " * (LONGEST + 1)),
        ("one word", "x" * (LONGEST + 1)),
        ("accents", "e" + "\u0301" * LONGEST),
    ]
    corpus += cases("text too long", long, TEXT, "max_characters")
    corpus += cases("json text too long", ((name, json.dumps({"text": text})) for name, text in long[:3]), says="max_characters")
    bad = (
        b"\xff",
        b"\xc0\x80",
        b"\xe2\x82",
        b"\xed\xa0\x80",
        b"\xf5\x80\x80\x80",
        b"red \x80",
        b"gr\xfcn",
        b"red\xff\xfe",
        b"\xf8\x88\x80\x80\x80",
        b"\xff\xfer\0e\0d\0",
    )
    corpus += cases("text no utf-8", ((repr(raw), raw) for raw in bad), TEXT, "not text in")
    charsets = (
        "nonsense",
        "idna",
        "rot13",
        "utf-9",
        "cp1251",
        "big5",
        "utf-7",
        "hex",
        "zip",
        "undefined",
        "mbcs",
        "unicode_escape",
    )
    corpus += [Case(f"text charset {name}", GOOD.encode(), f"text/plain; charset={name}", says="charset") for name in charsets]
    wrong = (
        ("ascii", b"gr\xc3\xbcn"),
        ("utf-16", b"red"),
        ("utf-32", b"red!!"),
        ("utf-16-le", b"red"),
        ("utf-16", b"\xff\xfe\x00"),
    )
    corpus += [Case(f"text in {name} {raw!r}", raw, f"text/plain; charset={name}", says="not text in") for name, raw in wrong]
    corpus.append(Case("text empty", b"", TEXT, says="empty"))
    kinds = ("text/csv", "application/json", "application/x-npy", "application/problem+json", "application/x-www-form-urlencoded")
    corpus += [Case(f"text as {kind}", GOOD.encode(), kind, says="number|JSON|npy|form|content type") for kind in kinds]
    others = ("image/png", "audio/wav", "application/octet-stream", "application/pdf")
    corpus += [Case(f"bytes as {kind}", b"\x89\xff\x00\x01", kind, says="must be a text|nothing|content type") for kind in others]
    refused = ("image/png", "x/y", "application/xml")
    corpus += [Case(f"text as {kind}", GOOD.encode(), kind, says="content type") for kind in refused]
    return [*corpus, Case("text oversize", b"red " * (1 << 20), TEXT, says="larger")]


def _legal() -> list[Case]:
    legal = [
        ("capitals", "RED UP"),
        ("among unknown words", "xyzzy red xyzzy"),
        ("byte order mark", "\ufeffred"),
        ("as long as allowed", "red " * (LONGEST // 4)),
    ]
    legal += [("line ends", "red\r\nup\rleft\n"), ("zero byte", "red\0up"), ("emoji", "red \U0001f600"), ("markup", "<b>red</b>")]
    corpus = cases("text legal", legal, TEXT, wanted="answered")
    corpus += [
        Case(f"text in {kind}", GOOD.encode(kind), f"text/plain; charset={kind}", wanted="answered")
        for kind in ("utf-16", "iso-8859-1", "utf-32", "us-ascii")
    ]
    corpus += [
        Case(f"text as {kind}", GOOD.encode(), kind, wanted="answered")
        for kind in ("text/markdown", "application/octet-stream", "")
    ]
    many = json.dumps([GOOD] * MOST)
    return [
        *corpus,
        *cases(
            "json legal",
            [("a text", json.dumps(GOOD)), ("as many as allowed", many), ("escapes", '{"text": "\\u0072ed"}')],
            wanted="answered",
        ),
    ]
