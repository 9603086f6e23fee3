"""What the README shows is what is there: the command's help, the exit codes, and links to files that exist."""

import re
from typing import Any

import pytest
import yaml
from typer.main import get_command
from typer.testing import CliRunner

from tests.workflow.act import COMMAND
from torchrelay.cli import (
    main,
)
from torchrelay.core import errors
from torchrelay.core.paths import ROOT

README = (ROOT / "README.md").read_text()


def shown() -> str:
    result = CliRunner().invoke(main.app, ["--help"], env={"COLUMNS": "100", "TERMINAL_WIDTH": "100"}, prog_name="torchrelay")
    assert result.exit_code == 0
    return result.output.strip()


def test_help_is_pasted() -> None:
    block = re.search(r"<!-- help -->\n```\n(.*?)\n```\n<!-- /help -->", README, re.S)
    assert block is not None
    assert block[1] == shown(), "paste the output of COLUMNS=100 torchrelay --help between the help marks"


def rows_of_serve() -> str:
    """The table of what serve.yml takes and gives, as README shows it."""
    called: dict[str, Any] = yaml.safe_load((ROOT / ".github/workflows/serve.yml").read_text())[True]["workflow_call"]
    lines = ["| | name | what it is | default |", "|---|---|---|---|"]
    for kind, plural in (("input", "inputs"), ("secret", "secrets"), ("output", "outputs")):
        for name, one in called[plural].items():
            default = str(one.get("default", "")).lower() if kind == "input" else ""
            text = " ".join(one["description"].split()).replace("|", "\\|")
            lines.append(f"| {kind} | `{name}` | {text} | {f'`{default}`' if default else ''} |")
    return "\n".join(lines)


def test_what_serve_takes_and_gives_is_pasted() -> None:
    block = re.search(r"<!-- inputs -->\n(.*?)\n?<!-- /inputs -->", README, re.S)
    assert block is not None
    assert block[1] == rows_of_serve(), f"paste this between the inputs marks:\n{rows_of_serve()}"


def test_the_act_command_is_the_one_that_is_tested() -> None:
    assert f"$ {COMMAND}\n" in README


def test_every_exit_code_is_listed() -> None:
    rows = re.findall(r"^\| ([\d, ]+) \|", README, re.M)
    listed = {int(code) for row in rows for code in row.split(",")}
    kinds = [one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, errors.TorchrelayError)]
    codes = [kind.exit_code for kind in kinds if kind is not errors.TorchrelayError]
    assert set(codes) <= listed
    assert len(codes) == len(set(codes)), "two causes share an exit code"


@pytest.mark.parametrize("link", re.findall(r"\]\((?!https?:|#)([^)]+)\)", README))
def test_links_lead_somewhere(link: str) -> None:
    assert (ROOT / link).exists()


def test_every_verb_has_a_docstring_of_one_sentence() -> None:
    for name, command in get_command(main.app).commands.items():  # type: ignore[attr-defined] # a group has them
        assert (command.help or "").strip(), name


def test_figures_name_the_benchmarks_that_print_them() -> None:
    block = re.search(r"<!-- figures -->(.*?)<!-- /figures -->", README, re.S)
    assert block is not None
    named = re.findall(r"benchmarks/\w+\.py", block[1])
    assert named
    assert [name for name in named if not (ROOT / name).is_file()] == []
