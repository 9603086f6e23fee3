"""`case.yaml`: the verdict that a model directory must get; tests/container/cases has one folder per case.

A case folder is a model directory, and its samples are the requests and answers. Files that this repository has elsewhere are
copied from there, and the test chooses the model's name.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

from torchrelay.core.paths import ROOT

CASES = Path(__file__).parent / "cases"
FILE = "case.yaml"
STATE = (".torchrelay", "__pycache__", "weights.lock", "train.py", "README.md")


class Form(BaseModel):
    """No unknown keys: a misspelt expectation would expect nothing."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Expectation(Form):
    """The verdict; the other fields are parts of the verdict's own."""

    verdict: Literal["passed", "gate_failed"]
    reason: str = ""
    traceback: str = ""
    fix: str = ""


class Case(Form):
    """The content of a case.yaml."""

    shows: str = Field(description="What the case shows, in one sentence.")
    expect: Expectation
    copies: tuple[str, ...] = Field((), description="Files, or folders with what is in them, of this repository: copied first.")
    keys: dict[str, Any] = Field({}, description="Keys of model.yaml that replace those in the file.")

    def write(self, source: Path, folder: Path, name: str) -> None:
        """Write the model directory of the case in `source`, with another name, into a new folder."""
        folder.mkdir(parents=True)
        ignored = shutil.ignore_patterns(*STATE, FILE)
        for path in (*(ROOT / copied for copied in self.copies), source):
            if path.is_dir():
                shutil.copytree(path, folder, dirs_exist_ok=True, ignore=ignored)
            else:
                shutil.copyfile(path, folder / path.name)
        file = folder / "model.yaml"
        file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | self.keys | {"name": name}))


def read(folder: Path) -> Case:
    """Read a case. Raises pydantic's ValidationError for an unknown key."""
    return Case.model_validate(yaml.safe_load((folder / FILE).read_text()))
