"""Bad CSV for the tensor handler with shape [4] and dtype float32."""

from __future__ import annotations

import json

from tests.container.corpus.case import Case, cases
from tests.container.corpus.tensors import GOOD, MOST

CSV = "text/csv"


def csv_cases() -> list[Case]:
    """Rows of numbers as text."""
    good = ["5.1", "3.5", "1.4", "0.2"]
    cells = [
        "",
        " ",
        "a",
        "null",
        "None",
        "true",
        "1_0",
        "0x1f",
        "1,5",
        "1.2.3",
        "--1",
        "1e",
        "e5",
        "\u00bd",
        "1 2",
        "#",
        "$1",
        "1%",
        "=1+1",
        "NA",
        "N/A",
    ]
    cells += [
        "-",
        "+",
        ".",
        "1e5e5",
        "1f",
        "1L",
        "(1)",
        "[1]",
        "{1}",
        "1;2",
        "1:2",
        "1/2",
        "2026-11-21",
        "\u221e",
        "\u0661a",
        "\ufeff1x",
        "a" * 1000,
    ]
    corpus = []
    for place in (0, 3):
        rows = (
            (repr(cell[:12]), ",".join([*good[:place], cell if "," not in cell else f'"{cell}"', *good[place + 1 :]]))
            for cell in cells
        )
        corpus += cases(f"csv cell {place}", rows, CSV, "is not a number|no row|CSV")
    finite = ("nan", "NaN", "inf", "-inf", "Infinity", "1e400", "-1e400", "1e39", "9" * 400)
    corpus += cases(
        "csv not finite", ((cell[:10], ",".join([*good[:3], cell])) for cell in finite), CSV, "NaN, infinite or too large"
    )
    row = ",".join(good)
    counts = ((f"{count} columns", ",".join(["1"] * count)) for count in (1, 2, 3, 5, 6, 100, 5000))
    corpus += cases("csv columns", counts, CSV, "shape")
    bad = [
        ("header line", f"a,b,c,d\n{row}\n"),
        ("header in quotes", f'"a","b","c","d"\n{row}\n'),
        ("text below", f"{row}\ntotal\n"),
        ("trailing comma", f"{row},\n"),
        ("leading comma", f",{row}\n"),
        ("semicolons", ";".join(good)),
        ("tabs", "\t".join(good)),
        ("spaces", " ".join(good)),
        ("pipes", "|".join(good)),
        ("decimal commas", "5,1;3,5;1,4;0,2"),
        ("blank lines alone", "\n\n\r\n"),
        ("white space alone", "  \n"),
        ("quote without end", f'"5.1,{row}\n'),
        ("quote without end, lines", '"' + f"{row}\n" * 20),
        ("text after a quote", '"5.1"x,3.5,1.4,0.2'),
        ("quote within", '5"1,3.5,1.4,0.2'),
        ("zero byte", f"5.1\0,{row}"),
        ("json", json.dumps(GOOD)),
        ("json object", json.dumps({"data": GOOD})),
        ("a field of 200000 characters", f"{'1' * 200_000}x,1,1,1"),
        ("comment", f"# numbers\n{row}"),
        ("separator line", f"sep=,\n{row}"),
        ("html", "<table><tr><td>1</td></tr></table>"),
        ("line separator", f"{row}\u2028{row}"),
        ("vertical tab", f"{row}\v{row}"),
        ("one bad among good", f"{row}\n" * 10 + "x,1,2,3\n" + f"{row}\n" * 10),
        ("rows of other lengths", f"{row}\n1,2,3\n"),
        ("rows of other lengths, last", f"{row}\n" * 5 + "1\n"),
        ("rows of other lengths, first", "1,2,3,4,5\n" + f"{row}\n"),
        ("too many rows", f"{row}\n" * (MOST + 1)),
        ("ten thousand rows", f"{row}\n" * 10_000),
    ]
    corpus += cases("csv", bad, CSV, "number|CSV|shape|at most")
    raw = (
        (repr(part), part + b"," + row.encode()[4:])
        for part in (b"\xff", b"\xc0\x80", b"\xe2\x82", b"\xed\xa0\x80", b"\x80", b"\xfc")
    )
    corpus += cases("csv no utf-8", raw, CSV, "not text")
    encodings = ((kind, row.encode(kind)) for kind in ("utf-16", "utf-16-le", "utf-32", "cp037"))
    corpus += cases("csv encoding", encodings, CSV, "not text|number")
    charsets = ("nonsense", "idna", "rot13", "cp1251", "base64", "utf-7", "hex", "zip", "undefined")
    corpus += [Case(f"csv charset {name}", row.encode(), f"text/csv; charset={name}", says="charset") for name in charsets]
    corpus += [
        Case(f"csv read as {name}", row.encode() + b"\n", f"text/csv; charset={name}", says="not text|number")
        for name in ("utf-16", "utf-32")
    ]
    others = ("text/plain", "application/json", "image/png", "text/tab-separated-values", "application/vnd.ms-excel", "text/csvx")
    corpus += [Case(f"csv as {kind}", row.encode(), kind, says="number|JSON|text|content type") for kind in others]
    legal = [
        ("one row", row),
        ("two rows", f"{row}\r\n{row}\r\n"),
        ("quotes", '"5.1","3.5","1.4","0.2"'),
        ("spaces", " 5.1, 3.5, 1.4, 0.2 "),
    ]
    legal += [
        ("byte order mark", f"\ufeff{row}"),
        ("blank lines", f"\n\n{row}\n\n"),
        ("no last line end", f"{row}\n{row}"),
        ("exponents", "1e1,2E1,3e-1,4"),
    ]
    corpus += cases("csv legal", legal, CSV, wanted="answered")
    corpus.append(Case("csv in utf-16", row.encode("utf-16"), "text/csv; charset=utf-16", wanted="answered"))
    corpus.append(Case("csv empty", b"", CSV, says="empty"))
    return [*corpus, Case("csv oversize", b"1,2,3,4\n" * (1 << 19), CSV, says="larger")]
