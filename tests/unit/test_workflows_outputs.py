"""Every output that an action declares is one that its verb writes, by the table in verb_outputs.py.

tests/integration/test_workflows_outputs.py runs the verbs and checks that they write what the table says.
"""

from __future__ import annotations

import pytest

import references
from tests.unit.verb_outputs import OUTPUTS
from tests.unit.workflow_files import Tree

TREE = Tree.of()


def unwritten(tree: Tree) -> list[str]:
    """Return the declared outputs that the action's verb does not write."""
    wrong = []
    for verb, written in OUTPUTS.items():
        file = tree.actions[verb]
        for output, declaration in file.data.get("outputs", {}).items():
            if f"steps.{verb}.outputs." in declaration["value"] and output not in written:
                wrong.append(f"{file.name}: nothing writes {output}")
    return wrong


def renamed(tree: Tree) -> list[str]:
    """Return the declared outputs that take their value from an output of another name."""
    return [
        f"{tree.actions[verb].name}: {output} is {declaration['value']}"
        for verb in OUTPUTS
        for output, declaration in tree.actions[verb].data.get("outputs", {}).items()
        if f".outputs.{output} }}}}" not in declaration["value"]
    ]


def test_every_output_is_written_under_its_own_name() -> None:
    assert unwritten(TREE) == []
    assert renamed(TREE) == []


@pytest.mark.parametrize("verb", [verb for verb in OUTPUTS if "outputs" in TREE.actions[verb].data])
def test_an_output_that_nothing_writes_is_reported(verb: str) -> None:
    more = f"\n  made-up:\n    description: Nothing writes it.\n    value: ${{{{ steps.{verb}.outputs.made-up }}}}\nruns:"
    assert unwritten(TREE.but(f"actions/{verb}/action.yml", "\nruns:", more)) == [
        f"actions/{verb}/action.yml: nothing writes made-up"
    ]


def test_an_output_under_another_name_is_reported() -> None:
    tree = TREE.but("actions/push/action.yml", "steps.push.outputs.digest", "steps.push.outputs.reference")
    assert len(renamed(tree)) == 1


def test_setup_writes_its_own_outputs() -> None:
    source = (references.ROOT / "actions/setup/setup.py").read_text()
    declared = TREE.actions["setup"].data["outputs"]
    assert [name for name in declared if f'f"{name}=' not in source] == []


def test_the_table_has_every_action_with_a_verb() -> None:
    assert set(TREE.actions) - set(OUTPUTS) == {"setup", "__cache", "__keyless"}
