"""Other people's words in markdown stay words: read back by a CommonMark parser with tables (markdown-it-py, which rich brings)."""

import re

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

from tests.runner_lines import HOSTILE
from torchrelay.core.text import printable
from torchrelay.workflow import markdown

hostile = pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
PARSER = MarkdownIt("commonmark").enable(["table", "strikethrough"])


def tokens(text: str) -> list[Token]:
    flat: list[Token] = []
    for one in PARSER.parse(text):
        flat += [one, *(one.children or [])]
    return flat


def kinds(text: str) -> set[str]:
    return {one.type for one in tokens(text)}


def spans(text: str) -> list[str]:
    return [one.content for one in tokens(text) if one.type == "code_inline"]


@hostile
def test_a_code_span_is_nothing_else(text: str) -> None:
    told = markdown.code(text, 300)
    assert kinds(f"a {told} b") <= {"paragraph_open", "inline", "text", "code_inline", "paragraph_close"}
    if text.strip():
        assert spans(f"a {told} b") == [printable(text, 300)]


@hostile
def test_a_cell_stays_one_cell(text: str) -> None:
    told = markdown.table(["one", "two"], [[markdown.cell(text), "x"], ["x", markdown.cell(text)]])
    found = tokens(told)
    assert sum(one.type == "tr_open" for one in found) == 3
    assert sum(one.type == "td_open" for one in found) == 4
    assert not {one.type for one in found} & {"html_inline", "html_block", "link_open", "image", "em_open", "strong_open", "s_open"}
    if text.strip():
        wanted = printable(text)
        assert {one.replace("\\x7c", "|") for one in spans(told)} == {wanted.replace("\\x7c", "|")}


def test_control_a_bare_value_would_be_markup() -> None:
    told = markdown.table(["one", "two"], [[text.replace("\n", " "), "x"] for text in HOSTILE.values()])
    assert {"html_inline", "link_open", "image", "em_open"} <= kinds(told)


@hostile
def test_a_block_is_not_left(text: str) -> None:
    told = markdown.block(text)
    found = PARSER.parse(f"{told}\n\nafter")
    assert [one.type for one in found] == ["fence", "paragraph_open", "inline", "paragraph_close"]
    assert "\u202e" not in told
    assert "\x1b" not in told
    assert len(told) < 5000 or "more characters" in told


def test_control_three_backticks_would_be_left() -> None:
    assert [one.type for one in PARSER.parse("```text\na\n```\n# b\n```")] != ["fence"]


@hostile
def test_a_folded_section_has_its_title(text: str) -> None:
    told = markdown.details(text, "inside")
    assert re.fullmatch(r"<details><summary><code>([A-Za-z0-9 ._-]|&#\d+;)*</code></summary>\n\ninside\n\n</details>", told)


@hostile
def test_a_label_is_letters_digits_and_codes(text: str) -> None:
    assert re.fullmatch(r"([A-Za-z0-9 ._-]|#\d+;)*", markdown.mermaid_label(text))


def test_blocks_that_do_not_fit_are_counted() -> None:
    assert markdown.fitted(["a", "b"], 100, "{} left out") == "a\n\nb\n"
    told = markdown.fitted(["a" * 50, "é" * 50, "c", "d"], 120, "*{} left out*")
    assert told == "a" * 50 + "\n\n*3 left out*\n"
    assert len(markdown.fitted(["é" * 10] * 1000, 1000, "{} left out").encode()) <= 1000
