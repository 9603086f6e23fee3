"""Markdown with untrusted text in it: no part of that text becomes markup, a link or a mention, or closes the code around it.

Untrusted text goes into code spans and fenced blocks, where GitHub resolves no mention, link, reference or HTML. (GitHub Flavored
Markdown 0.29, sections 6.3 and 4.5; in tables `|` ends a cell even inside a code span, 4.10.)
"""

import re
from collections.abc import Iterable, Sequence

from torchrelay.core.text import printable

CELL = 200  # characters of one value in a table
_RUN = re.compile(r"`+")
_PLAIN = re.compile(r"[A-Za-z0-9 ._-]")


def code(text: str, limit: int = CELL) -> str:
    """Return a code span on one line, with control and bidirectional characters escaped; "" for blank text."""
    line = printable(text, limit)
    if not line.strip():
        return ""
    fence = "`" * (1 + max((len(run) for run in _RUN.findall(line)), default=0))
    pad = " " if line[0] == "`" or line[-1] == "`" or (line[0] == line[-1] == " ") else ""
    return f"{fence}{pad}{line}{pad}{fence}"


def cell(text: str, limit: int = CELL) -> str:
    """Return a code span for a table cell."""
    span = code(text, limit)
    # Some renderers read a backslash before the pipe as an escape of that backslash.
    return span.replace("|", "\\x7c") if "\\|" in span else span.replace("|", "\\|")


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; column names are trusted, and every cell is already markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(one)} |" for one in lines)


def block(text: str, limit: int = 4000) -> str:
    """Return a fenced block, cut at `limit` characters with a note."""
    lines = [printable(line, limit) for line in text[:limit].splitlines()]
    if len(text) > limit:
        lines.append(f"... ({len(text) - limit} more characters)")
    fence = "`" * max(3, 1 + max((len(run) for line in lines for run in _RUN.findall(line)), default=0))
    return "\n".join([f"{fence}text", *lines, fence])


def details(title: str, body: str, *, opened: bool = False) -> str:
    """Return a folded section; in `title`, which is plain text, all but letters, digits and space . _ - become entities."""
    safe = "".join(c if _PLAIN.fullmatch(c) else f"&#{ord(c)};" for c in printable(title))
    return f"<details{' open' if opened else ''}><summary><code>{safe}</code></summary>\n\n{body}\n\n</details>"


def mermaid_label(text: str, limit: int = 60) -> str:
    """Return text for the double quotes of a node; all but letters, digits and space . _ - become character codes."""
    return "".join(c if _PLAIN.fullmatch(c) else f"#{ord(c)};" for c in printable(text, limit))


def fitted(blocks: Iterable[str], limit: int, left_out: str) -> str:
    """Join as many blocks as fit into `limit` bytes of UTF-8; `left_out` is added for the rest, with {} as their number."""
    included: list[str] = []
    dropped, size = 0, 0
    room = limit - len(left_out) - 16
    for one in blocks:
        length = len(one.encode(errors="backslashreplace")) + 2
        if dropped or size + length > room:
            dropped += 1
        else:
            included.append(one)
            size += length
    return "\n\n".join([*included, *([left_out.replace("{}", str(dropped))] if dropped else [])]) + "\n"
