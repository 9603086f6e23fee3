"""Finds the workflow commands that GitHub's own runner would see in the output of a run; act sees fewer.

The rules are those of actions/runner 2.336, Runner.Common/ActionCommand.cs and Runner.Worker/ActionCommandManager.cs: `::name::` at
the start of a line after any white space, `##[name]` anywhere in it; carriage returns end lines too; nothing is taken between
`::stop-commands::WORD` and `::WORD::`.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass

from tests.workflow.act import Run

NAMES = {
    "internal-set-repo-path", "set-env", "set-output", "save-state", "add-mask", "add-path", "add-matcher", "remove-matcher",
    "warning", "error", "notice", "debug", "group", "endgroup", "echo",
}  # fmt: skip
_V2 = re.compile(r"\s*::(?P<name>[^ :]+)(?: (?P<properties>(?:(?!::).)*))?::(?P<data>.*)", re.DOTALL)
_V1 = re.compile(r"##\[(?P<name>[^ \]]+)(?: (?P<properties>[^\]]*))?\](?P<data>.*)", re.DOTALL)


@dataclass(frozen=True)
class Command:
    """One command, as the runner parses it."""

    name: str
    properties: str
    data: str


def parse(line: str, stop_word: str) -> Command | None:
    """Return the command in a line, None if there is none."""
    known = NAMES | {"stop-commands", stop_word}
    for match in (_V2.match(line), _V1.search(line)):
        if match and match["name"] in known:
            return Command(match["name"], match["properties"] or "", match["data"])
    return None


def commands(run: Run) -> list[Command]:
    """Return every command that the runner would obey, step by step."""
    printed: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for event in run.events:
        if event.get("raw_output") or "raw" in event:
            printed[(event["job"], *event["stepID"])].append(event.get("raw") or event["msg"])
    obeyed = []
    for lines in printed.values():
        word = ""
        for line in re.split(r"\r\n|\r|\n", "".join(lines)):
            command = parse(line, word)
            if command is None or (word and command.name != word):
                continue
            if command.name == word:
                word = ""
            elif command.name == "stop-commands":
                word = command.data
                obeyed.append(command)
            else:
                obeyed.append(command)
    return obeyed
