"""Every output that an action declares is written: its name is a key of what the verb's modules put together.

That a real run writes them is for tests/integration/test_workflows_outputs.py and the runs under act.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

import references
from tests.unit.workflow_files import Tree

TREE = Tree.of()
PACKAGE = references.ROOT / "scripts/torchrelay"
# Where the result that a verb hands to `console.done` is put together.
WRITERS = {
    "plan": "workflow/plan", "check": "cli/stages", "fetch": "cli/stages", "archive": "image/mar", "build": "stages/build",
    "verify": "verification/verdict", "diff": "stages/diff", "bundle": "stages/bundle", "login": "stages/login",
    "push": "stages/push", "attest": "cli/trust", "deploy": "stages/relay", "summary": "workflow/job_result",
    "report": "cli/report", "doctor": "cli/accounts",
}  # fmt: skip


def keys(source: str) -> Iterator[str]:
    """Yield every key of a literal dict, every key that is assigned to, and every annotated field of a module."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Dict):
            yield from (key.value for key in node.keys if isinstance(key, ast.Constant) and isinstance(key.value, str))
        elif isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store) and isinstance(node.slice, ast.Constant):
            yield str(node.slice.value)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id


def unwritten(tree: Tree) -> list[str]:
    wrong = []
    for name, file in tree.actions.items():
        if name not in WRITERS:
            continue
        module = PACKAGE / f"{WRITERS[name]}.py"
        written = {key.replace("_", "-") for key in keys(module.read_text() if module.exists() else "")}
        for output, said in file.data.get("outputs", {}).items():
            if f"steps.{name}.outputs.{output}" in said["value"] and output not in written:
                wrong.append(f"{file.name}: nothing writes {output}")
    return wrong


def test_every_output_is_written() -> None:
    assert unwritten(TREE) == []


@pytest.mark.parametrize("name", [name for name in WRITERS if "outputs" in TREE.actions[name].data])
def test_an_output_that_nothing_writes_is_found(name: str) -> None:
    more = f"\n  made-up:\n    description: Nothing writes it.\n    value: ${{{{ steps.{name}.outputs.made-up }}}}\nruns:"
    assert unwritten(TREE.but(f"actions/{name}/action.yml", "\nruns:", more)) == [
        f"actions/{name}/action.yml: nothing writes made-up"
    ]


def test_setup_writes_its_own() -> None:
    source = (references.ROOT / "actions/setup/setup.py").read_text()
    declared = TREE.actions["setup"].data["outputs"]
    assert [name for name in declared if f'f"{name}=' not in source] == []


def test_every_verb_of_an_action_is_in_the_table() -> None:
    assert set(TREE.actions) - set(WRITERS) == {"setup", "__cache", "__keyless"}
