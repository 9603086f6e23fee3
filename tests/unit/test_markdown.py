"""Untrusted text in markdown stays text, read back by a CommonMark parser with tables (markdown-it-py, a dependency of rich)."""

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
def test_untrusted_text_stays_in_its_code_span(text: str) -> None:
    rendered = markdown.code(text, 300)
    assert kinds(f"a {rendered} b") <= {"paragraph_open", "inline", "text", "code_inline", "paragraph_close"}
    if text.strip():
        assert spans(f"a {rendered} b") == [printable(text, 300)]


@hostile
def test_untrusted_text_stays_in_its_cell(text: str) -> None:
    rendered = markdown.table(["one", "two"], [[markdown.cell(text), "x"], ["x", markdown.cell(text)]])
    parts = tokens(rendered)
    assert sum(one.type == "tr_open" for one in parts) == 3
    assert sum(one.type == "td_open" for one in parts) == 4
    assert not {one.type for one in parts} & {"html_inline", "html_block", "link_open", "image", "em_open", "strong_open", "s_open"}
    if text.strip():
        wanted = printable(text)
        assert {one.replace("\\x7c", "|") for one in spans(rendered)} == {wanted.replace("\\x7c", "|")}


def test_control_an_unescaped_value_becomes_markup() -> None:
    rendered = markdown.table(["one", "two"], [[text.replace("\n", " "), "x"] for text in HOSTILE.values()])
    assert {"html_inline", "link_open", "image", "em_open"} <= kinds(rendered)


@hostile
def test_untrusted_text_stays_in_its_block(text: str) -> None:
    rendered = markdown.block(text)
    parts = PARSER.parse(f"{rendered}\n\nafter")
    assert [one.type for one in parts] == ["fence", "paragraph_open", "inline", "paragraph_close"]
    assert "\u202e" not in rendered
    assert "\x1b" not in rendered
    assert len(rendered) < 5000 or "more characters" in rendered


def test_control_text_can_close_a_block_of_three_backticks() -> None:
    assert [one.type for one in PARSER.parse("```text\na\n```\n# b\n```")] != ["fence"]


@hostile
def test_the_title_of_a_folded_section_is_escaped(text: str) -> None:
    rendered = markdown.details(text, "inside")
    assert re.fullmatch(r"<details><summary><code>([A-Za-z0-9 ._-]|&#\d+;)*</code></summary>\n\ninside\n\n</details>", rendered)


@hostile
def test_a_chart_label_is_escaped(text: str) -> None:
    assert re.fullmatch(r"([A-Za-z0-9 ._-]|#\d+;)*", markdown.mermaid_label(text))


def test_blocks_that_do_not_fit_are_counted() -> None:
    assert markdown.fitted(["a", "b"], 100, "{} left out") == "a\n\nb\n"
    rendered = markdown.fitted(["a" * 50, "é" * 50, "c", "d"], 120, "*{} left out*")
    assert rendered == "a" * 50 + "\n\n*3 left out*\n"
    assert len(markdown.fitted(["é" * 10] * 1000, 1000, "{} left out").encode()) <= 1000
