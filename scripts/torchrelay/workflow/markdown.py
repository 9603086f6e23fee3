"""Markdown that holds other people's words: nothing in them is markup, a link, a mention or the end of what they stand in.

Words go into code spans and fenced blocks, where GitHub resolves no mention, link, reference or HTML. (GitHub Flavored Markdown
0.29, sections 6.3 and 4.5; tables take `|` as the end of a cell in a code span too, 4.10.)
"""

import re
from collections.abc import Iterable, Sequence

from torchrelay.core.text import printable

CELL = 200  # characters of one value in a table
_RUN = re.compile(r"`+")
_PLAIN = re.compile(r"[A-Za-z0-9 ._-]")


def code(text: str, limit: int = CELL) -> str:
    """Return a code span: one line, control and bidirectional characters as escapes; nothing for an empty text."""
    line = printable(text, limit)
    if not line.strip():
        return ""
    fence = "`" * (1 + max((len(run) for run in _RUN.findall(line)), default=0))
    pad = " " if line[0] == "`" or line[-1] == "`" or (line[0] == line[-1] == " ") else ""
    return f"{fence}{pad}{line}{pad}{fence}"


def cell(text: str, limit: int = CELL) -> str:
    """Return a code span for a table's cell."""
    span = code(text, limit)
    # A backslash before the pipe would be read as one that escapes the backslash by some renderers.
    return span.replace("|", "\\x7c") if "\\|" in span else span.replace("|", "\\|")


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; the columns' names are ours, and each cell is markdown already."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(one)} |" for one in lines)


def block(text: str, limit: int = 4000) -> str:
    """Return a fenced block; what is longer is cut, and says so."""
    kept = text[:limit]
    lines = [printable(line, limit) for line in kept.splitlines()]
    if len(text) > limit:
        lines.append(f"... ({len(text) - limit} more characters)")
    fence = "`" * max(3, 1 + max((len(run) for line in lines for run in _RUN.findall(line)), default=0))
    return "\n".join([f"{fence}text", *lines, fence])


def details(title: str, body: str, *, opened: bool = False) -> str:
    """Return a folded section; `title` is plain text, of which everything but letters and digits is written as an entity."""
    safe = "".join(c if _PLAIN.fullmatch(c) else f"&#{ord(c)};" for c in printable(title))
    return f"<details{' open' if opened else ''}><summary><code>{safe}</code></summary>\n\n{body}\n\n</details>"


def mermaid_label(text: str, limit: int = 60) -> str:
    """Return a text for between the double quotes of a node: everything but letters and digits as a character code."""
    return "".join(c if _PLAIN.fullmatch(c) else f"#{ord(c)};" for c in printable(text, limit))


def fitted(blocks: Iterable[str], limit: int, left_out: str) -> str:
    """Join blocks by empty lines while they stay within `limit` bytes of UTF-8; `left_out` tells of the others, {} is how many."""
    kept: list[str] = []
    dropped, size = 0, 0
    room = limit - len(left_out) - 16
    for one in blocks:
        length = len(one.encode(errors="backslashreplace")) + 2
        if dropped or size + length > room:
            dropped += 1
        else:
            kept.append(one)
            size += length
    return "\n\n".join([*kept, *([left_out.replace("{}", str(dropped))] if dropped else [])]) + "\n"
