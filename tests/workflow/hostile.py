"""Hostile words, and how to see that one of them had an effect.

A shell that runs one makes a file; a command, an output or a variable that one makes says INJECTED; an expression in one that is
evaluated says what only its evaluation knows; in markdown, INJECTED stands outside of code.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from tests.workflow.act import Run
from tests.workflow.runner import commands

MARK = "INJECTED"
SECRET = "evaluated-9f81c2"
"""What `${{ env.CANARY_VALUE }}` comes to."""

# kind -> word; {} is the case's own number
SHELL = {
    "substitution": "$(touch $CANARY.{})",
    "backticks": "`touch $CANARY.{}`",
    "semicolon": "a; touch $CANARY.{}; b",
    "double_quote": 'a" ; touch $CANARY.{} ; "b',
    "single_quote": "a' ; touch $CANARY.{} ; 'b",
    "pipe": "a | touch $CANARY.{}",
    "line": "a\ntouch $CANARY.{}\nb",
    "background": "a & touch $CANARY.{} & b",
    "no_blanks": "$(touch${{IFS}}$CANARY.{})",
    "option": "--help=$(touch $CANARY.{})",
}
COMMANDS = {
    "error": "a\n::error title=INJECTED::INJECTED {}\n",
    "indented": "a\n \t ::error title=INJECTED::INJECTED {}\n",
    "return": "a\r::error title=INJECTED::INJECTED {}\r",
    "old_form": "a ##[error]INJECTED {}",
    "set_output": "a\n::set-output name=endpoint::INJECTED {}\n",
    "set_env": "a\n::set-env name=INJECTED_{}::INJECTED\n",
    "add_path": "a\n::add-path::/INJECTED/{}\n",
    "add_mask": "a\n::add-mask::INJECTED {}\n",
    "stop": "a\n::stop-commands::INJECTED{}\n",
    "old_stop": "a ##[stop-commands]INJECTED{}",
    "escaped": "a%0A::error title=INJECTED::INJECTED {}%0A",
    "output_file": "a\nEOF\nendpoint=INJECTED {}\nrest<<EOF\nb",
}
EXPRESSIONS = {
    "expression": "a ${{{{ env.CANARY_VALUE }}}} {}",
    "expression_of_json": "${{{{ toJSON(env) }}}} {}",
}
MARKDOWN = {
    "html": "a</details><img src=x onerror=INJECTED>{}",
    "table": "a | INJECTED {} |\n| INJECTED |",
    "fence": "a\n```\n# INJECTED {}\n",
    "code_span": "a`` ` INJECTED {} ` ``b",
    "mention": "a @INJECTED/{} [INJECTED](https://example.com)",
    "mermaid": 'a"]; INJECTED["{}',
    "comment": "a --> INJECTED <!-- torchrelay --> {}",
}
KINDS = {**SHELL, **COMMANDS, **EXPRESSIONS, **MARKDOWN}


@dataclass(frozen=True)
class Case:
    """One word at one place."""

    number: int
    place: str
    kind: str
    text: str

    @property
    def id(self) -> str:
        return f"{self.place}-{self.kind}"


def cases(place: str, kinds: list[str], first: int) -> list[Case]:
    """Return numbered words for a place."""
    return [Case(first + n, place, kind, KINDS[kind].replace("{}", str(first + n)).format()) for n, kind in enumerate(kinds)]


def environment(canary: Path) -> dict[str, str]:
    """The environment that hostile words need to do harm, where they can."""
    return {"CANARY": str(canary), "CANARY_VALUE": SECRET}


def touched(canary: Path) -> list[str]:
    """Return the cases that a shell ran."""
    return sorted(file.name for file in canary.parent.glob(f"{canary.name}*"))


def harm(run: Run, canary: Path, *texts: str) -> list[str]:
    """Return everything that was injected into a run; `texts` is further markdown that it wrote."""
    findings = [f"a shell made {name}" for name in touched(canary)]
    for command in commands(run):
        message = command.name in ("error", "warning", "notice", "debug", "group")
        words = [word.strip() for one in command.properties.split(",") for word in one.split("=", 1)]
        if any(word.startswith(MARK) for word in (*words, command.name, command.data)) or (not message and MARK in command.data):
            findings.append(f"GitHub's runner would obey {command}")
    for event in run.commands:
        if event["command"] in ("set-output", "set-env", "add-path") and _made_here(event):
            findings.append(f"act got {event['command']} {event.get('name', '')}={event['arg'][:80]}")
    printed = "\n".join([run.raw, *(event["arg"] for event in run.commands if "arg" in event)])
    summaries = [event["content"] for event in run.commands if event["command"] == "summary"]
    findings += ["an expression was evaluated" for text in (printed, *summaries, *texts) if SECRET in text]
    findings += [
        f"markdown: {line}" for text in (*summaries, *texts) for line in outside_of_code(text).splitlines() if MARK in line
    ]
    return findings


def _made_here(event: dict[str, str]) -> bool:
    """Return whether an output, a variable or a path is injected: by its name, or because its value is only the word."""
    return MARK in event.get("name", "") or event.get("arg", "").startswith((MARK, f"/{MARK}"))


def outside_of_code(markdown: str) -> str:
    """Return markdown without fenced blocks, code spans, and what stands in quotes of a mermaid node as character codes."""
    lines, fence = [], ""
    for line in markdown.splitlines():
        opening = re.match(r" {0,3}(`{3,}|~{3,})", line)
        if fence:
            if opening and opening[1].startswith(fence) and not line.strip().strip(fence[0]):
                fence = ""
            continue
        if opening and "mermaid" not in line:
            fence = opening[1]
            continue
        lines.append(re.sub(r"(?<!`)(`+)(?!`)(.*?)(?<!`)\1(?!`)", "", line))
    return "\n".join(lines)
