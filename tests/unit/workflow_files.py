"""The repository's workflows and actions, parsed, with queries over them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

import references

ROOT = Path(__file__).resolve().parents[2]
EXPRESSION = re.compile(r"\$\{\{(.*?)\}\}", re.DOTALL)
Node = dict[str, Any]


@dataclass(frozen=True)
class File:
    """One workflow or action."""

    name: str
    text: str

    @cached_property
    def data(self) -> Node:
        # CBaseLoader: `on` stays a string and every value is text, as in GitHub; it creates only text, lists and maps
        return dict(yaml.load(self.text, Loader=yaml.CBaseLoader))  # noqa: S506 -- CBaseLoader makes only strings

    @property
    def is_action(self) -> bool:
        return self.name.startswith("actions/")

    @property
    def action(self) -> str:
        """The action's own name, e.g. push."""
        return self.name.split("/")[1]

    @property
    def internal(self) -> bool:
        return Path(self.name).name.startswith("__") or (self.is_action and self.action.startswith("__"))

    @property
    def jobs(self) -> dict[str, Node]:
        return dict(self.data.get("jobs", {}))

    def steps(self) -> Iterator[tuple[str, Node]]:
        """Every step with the job it is in, "" in an action."""
        if self.is_action:
            yield from (("", step) for step in self.data["runs"]["steps"])
        for job, body in self.jobs.items():
            yield from ((job, step) for step in body.get("steps", []))


class Tree:
    """All workflows and actions by file name."""

    def __init__(self, texts: dict[str, str]) -> None:
        self.files = {name: File(name, text) for name, text in texts.items()}
        self.home, self.ref = references.home_of(texts)

    @classmethod
    def of(cls, root: Path = ROOT) -> Tree:
        files = [*root.glob(".github/workflows/*.yml"), *root.glob("actions/*/action.yml")]
        return cls({str(path.relative_to(root)): path.read_text() for path in sorted(files)})

    def but(self, name: str, old: str, new: str) -> Tree:
        """Return the tree with one text replaced, for a control test."""
        texts = {file.name: file.text for file in self.files.values()}
        assert old in texts[name], f"{name} has no {old!r}"
        return Tree(texts | {name: texts[name].replace(old, new)})

    def also(self, name: str, text: str) -> Tree:
        return Tree({file.name: file.text for file in self.files.values()} | {name: text})

    @property
    def serve(self) -> File:
        return self.files[references.SERVE]

    @property
    def actions(self) -> dict[str, File]:
        return {file.action: file for file in self.files.values() if file.is_action}

    @property
    def workflows(self) -> list[File]:
        return [file for file in self.files.values() if not file.is_action]

    def own(self, uses: str) -> str:
        """Return the name of our action in a `uses:`; "" for a third-party action."""
        path, _, _ = uses.partition("@")
        return path.removeprefix(f"{self.home}/actions/") if path.startswith(f"{self.home}/actions/") else ""

    def reached(self, steps: list[Node]) -> Iterator[tuple[str, Node]]:
        """Yield every `uses:` of some steps and of our actions inside them, with its inputs."""
        for step in steps:
            if not (uses := step.get("uses")):
                continue
            yield uses, step.get("with", {})
            own = self.own(uses)
            if own and own in self.actions and not self._left_out(own, step):
                yield from self.reached(self.actions[own].data["runs"]["steps"])

    def _left_out(self, own: str, step: Node) -> bool:
        """Return whether an action's inner `uses:` never runs: `setup` without `cache` names actions/cache but skips it."""
        return own == "setup" and step.get("with", {}).get("cache", "false") != "true"


def expressions(node: Any) -> Iterator[str]:
    """Yield every `${{ }}` below a node, and every `if:` without one."""
    if isinstance(node, str):
        yield from (match.strip() for match in EXPRESSION.findall(node))
    elif isinstance(node, dict):
        for key, value in node.items():
            if key == "if" and isinstance(value, str) and "${{" not in value:
                yield value
            yield from expressions(value)
    elif isinstance(node, list):
        for value in node:
            yield from expressions(value)
