"""The table of verbs."""

import pytest
import typer.main
from typer.testing import CliRunner

from torchrelay.cli import main
from torchrelay.cli.console import described
from torchrelay.core.errors import LoginFailed
from torchrelay.core.paths import ROOT

GROUP = typer.main.get_command(main.app)


def test_every_file_of_verbs_is_in_the_table() -> None:
    files = {path.stem.replace("_", "-") for path in (ROOT / "scripts/torchrelay/cli/verbs").glob("*.py")} - {"--init--"}
    assert files == set(main.VERBS)


@pytest.mark.parametrize("verb", main.VERBS)
def test_the_table_repeats_the_first_sentence_of_each_verbs_help(verb: str) -> None:
    command = GROUP.get_command(None, verb)  # type: ignore[attr-defined] # typer's group has it
    assert command.help.strip().splitlines()[0] == main.VERBS[verb]
    assert command.name == verb


def test_an_unknown_verb_is_a_usage_error() -> None:
    assert CliRunner().invoke(main.app, ["deply"]).exit_code == 2


@pytest.mark.parametrize(("fix", "line"), [("log in", "fix: log in (https://"), ("", "fix: see https://")])
def test_the_fix_line_has_the_address_of_the_documentation(fix: str, line: str) -> None:
    text = described(LoginFailed("no token", fix))
    assert text.startswith("torchrelay: no token\n")
    assert line in text
    assert text.rstrip(")\n").endswith("/docs/troubleshooting.md#login_failed")
