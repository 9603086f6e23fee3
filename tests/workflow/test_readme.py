"""These tests type the commands of the README."""

from __future__ import annotations

from tests.workflow.act import COMMAND
from tests.workflow.repositories import ROOT


def test_the_command_is_the_readmes() -> None:
    assert f"\n$ {COMMAND}\n" in (ROOT / "README.md").read_text()
