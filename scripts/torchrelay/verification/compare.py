"""Compares an answer with the expected one; each difference names the JSON path, the expected and the actual value."""

import math
from collections.abc import Iterator
from typing import Any

from torchrelay.core.json_text import parse_untrusted
from torchrelay.core.text import printable, shown
from torchrelay.model.samples import Expect, Sample

MOST = 5
"""Differences that are listed; the others are counted."""


def compare(sample: Sample, status: int, content_type: str, body: bytes, latency_ms: float | None) -> list[str]:
    """Return the differences between an answer and what the sample expects, one line each; none means that it passed."""
    expect = sample.expect
    differences = list(_first(_differences(expect, status, content_type, body)))
    if sample.latency_ms is not None and latency_ms is not None and latency_ms > sample.latency_ms:
        differences.append(f"latency: expected at most {sample.latency_ms:g} ms, got {latency_ms:.4g} ms")
    return differences


def _first(differences: Iterator[str]) -> Iterator[str]:
    more = 0
    for count, difference in enumerate(differences):
        if count < MOST:
            yield difference
        else:
            more += 1
    if more:
        yield f"and {more} more"


def _differences(expect: Expect, status: int, content_type: str, body: bytes) -> Iterator[str]:
    if status != expect.status:
        yield f"status: expected {expect.status}, got {status}: {_text(body)}"
        return
    if expect.kind == "missing":
        yield "nothing is expected yet: run `torchrelay samples record`"
    elif expect.kind in {"text", "bytes"}:
        yield from _bytes_differ(expect, body)
    elif expect.kind == "json":
        try:
            answer = parse_untrusted(body)
        except ValueError:
            yield f"$: expected JSON, got {printable(content_type) or 'no content type'}: {_text(body)}"
            return
        yield from _top_k(expect, answer) if expect.mode == "top_k" else _walk(expect, expect.value, answer, "$")


def _text(body: bytes) -> str:
    return shown(body[:400].decode("utf-8", "replace"), 200)


def _bytes_differ(expect: Expect, body: bytes) -> Iterator[str]:
    wanted = expect.value if expect.kind == "bytes" else expect.value.encode("utf-8", "surrogatepass")
    if body == wanted:
        return
    at = next((i for i, (a, b) in enumerate(zip(wanted, body, strict=False)) if a != b), min(len(wanted), len(body)))
    if expect.kind == "text":
        yield f"body: expected {shown(expect.value)}, got {_text(body)}"
    else:
        yield f"body: expected {len(wanted)} bytes, got {len(body)}; they differ from byte {at} on"


def _walk(expect: Expect, wanted: Any, got: Any, path: str) -> Iterator[str]:
    """Yield the differences of one JSON value, as deep as `wanted` is (at most `json_document.MAX_DEPTH` levels)."""
    if expect.mode == "subset" and wanted == {}:
        return  # anything matches
    if isinstance(wanted, dict) and isinstance(got, dict):
        yield from _walk_objects(expect, wanted, got, path)
    elif isinstance(wanted, list) and isinstance(got, list):
        if len(wanted) != len(got):
            yield f"{path}: expected {len(wanted)} items, got {len(got)}"
        for index, (want, have) in enumerate(zip(wanted, got, strict=False)):
            yield from _walk(expect, want, have, f"{path}[{index}]")
    elif not same_value(expect, wanted, got):
        near = _tolerance(expect, wanted) if _is_number(wanted) and expect.mode == "numeric" else ""
        yield f"{path}: expected {shown(wanted)}{near}, got {shown(got)}"


def _walk_objects(expect: Expect, wanted: dict[str, Any], got: dict[str, Any], path: str) -> Iterator[str]:
    for key, value in wanted.items():
        here = _member(path, key)
        if key in got:
            yield from _walk(expect, value, got[key], here)
        else:
            yield f"{here}: expected {shown(value)}, got nothing"
    if expect.mode != "subset":
        for key, value in got.items():
            if key not in wanted:
                yield f"{_member(path, key)}: expected nothing, got {shown(value)}"


def _member(path: str, key: str) -> str:
    return f"{path}.{key}" if key.isascii() and key.isidentifier() else f"{path}[{shown(key)}]"


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def same_value(expect: Expect, wanted: Any, got: Any) -> bool:
    """Return whether two JSON values that are neither lists nor objects are equal under a sample's rule."""
    if not (_is_number(wanted) and _is_number(got)):
        return type(wanted) is type(got) and bool(wanted == got)
    if wanted == got or (_is_nan(wanted) and _is_nan(got)):
        return True
    if expect.mode != "numeric":
        return False
    try:
        distance = abs(got - wanted)
        return math.isfinite(distance) and distance <= expect.atol + expect.rtol * abs(wanted)
    except OverflowError:  # an integer that no float can hold
        return False


def _is_nan(value: float) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _tolerance(expect: Expect, wanted: float) -> str:
    try:
        return f" (±{expect.atol + expect.rtol * abs(wanted):.3g})"
    except OverflowError:
        return ""


def _top_k(expect: Expect, answer: Any) -> Iterator[str]:
    wanted, got = ranked(expect.value), ranked(answer)
    if wanted is None:
        yield f"$: the expected answer has no classes: {shown(expect.value)}"
    elif got is None:
        yield f"$: expected classes, got {shown(answer)}"
    elif set(wanted[: expect.k]) != set(got[: expect.k]):
        yield f"$: expected the first {expect.k} to be {shown(wanted[: expect.k])}, got {shown(got[: expect.k])}"


def ranked(answer: Any) -> list[str] | None:
    """Return the classes of an answer, best first, as text; None when its form is unknown.

    Known forms are `{class: score, ...}`, a list of scores (the classes are its indices), `[{"class": ...}, ...]` and
    `[[class, score], ...]` and `[class, ...]` best first, `{"class": ...}` alone, and an object with one such list.
    """
    if isinstance(answer, dict):
        return _ranked_object(answer)
    if not isinstance(answer, list) or not answer:
        return None
    if all(isinstance(item, float) for item in answer):
        return [str(index) for index in sorted(range(len(answer)), key=lambda index: -answer[index])]
    labels = [_label(item) for item in answer]
    return None if None in labels else [str(label) for label in labels]


def _ranked_object(answer: dict[str, Any]) -> list[str] | None:
    lists = [classes for value in answer.values() if isinstance(value, list) and (classes := ranked(value))]
    if len(lists) == 1:
        return lists[0]
    if (label := _label(answer)) is not None:
        return [label]
    scores = answer and all(_is_number(score) for score in answer.values())
    return sorted(answer, key=lambda label: -answer[label]) if scores else None


def _label(item: Any) -> str | None:
    if isinstance(item, dict):
        item = next((item[key] for key in ("class", "label") if key in item), None)
    elif isinstance(item, list) and len(item) == 2 and _is_number(item[1]):
        item = item[0]
    return str(item) if isinstance(item, (str, int)) and not isinstance(item, bool) else None
