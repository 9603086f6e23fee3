"""Untrusted text and values in our messages: escaped, short, with a suggestion for a misspelt word."""

import difflib
import json
from collections.abc import Iterable
from typing import Any

_LONGEST_GUESS = 64  # difflib is quadratic; a longer word is never a misspelt name that we know


def printable(text: str, limit: int = 200) -> str:
    """Return the text on one line: control, format and undisplayable characters as escapes, cut at `limit` characters."""
    cut = text[: limit + 1]
    escaped = "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in cut)
    return escaped if len(escaped) <= limit else f"{escaped[:limit]}..."


def first_line(error: object, limit: int = 200) -> str:
    """Return the first line of an error that is not blank, cut at `limit` characters; the error's type when it says nothing."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:limit] if lines else type(error).__name__


def shown(value: Any, limit: int = 60) -> str:
    """Return a value as JSON, on one line, cut at `limit` characters; text keeps its quotes."""
    if isinstance(value, str):
        return f'"{printable(value, limit)}"'
    if isinstance(value, (dict, list)) and len(value) > limit:
        return f"a {'mapping' if isinstance(value, dict) else 'list'} of {len(value)} entries"
    try:
        text = json.dumps(value, ensure_ascii=False, default=lambda odd: type(odd).__name__)
    except (ValueError, RecursionError):  # an integer of more than 4300 digits, or nested too deeply
        text = f"a {type(value).__name__}"
    return printable(text, limit)


def meant(word: str, allowed: Iterable[str]) -> str:
    """Return `did you mean size? allowed: delay_ms, size`; only the allowed words when none is close."""
    choices = sorted(allowed)
    text = f"allowed: {', '.join(choices)}" if choices else "nothing is allowed here"
    near = nearest(word, choices)
    return f"did you mean {near}? {text}" if near else text


def nearest(word: str, choices: Iterable[str]) -> str | None:
    """Return the choice closest to `word`, ignoring dashes, underscores and case; None when none is close."""
    if len(word) > _LONGEST_GUESS:
        return None
    folded = {choice.lower().replace("-", "_"): choice for choice in choices}
    matches = difflib.get_close_matches(word.lower().replace("-", "_"), folded, n=1, cutoff=0.6)
    return folded[matches[0]] if matches else None


def field_name(path: Iterable[str | int]) -> str:
    """Return a path like `("extra_files", 1)` as `extra_files[1]`."""
    name = ""
    for part in path:
        if isinstance(part, int):
            name += f"[{part}]"
        else:
            name += f".{printable(part, 60)}" if name else printable(part, 60)
    return name
