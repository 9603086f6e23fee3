"""A weights.lock that fetch has just written does not make a checkout dirty; a changed one does."""

import subprocess
from pathlib import Path

import pytest

from torchrelay.model.model import Model
from torchrelay.model.version import resolved_version


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("?? m/weights.lock\n", "0123456789ab"),
        (" M m/weights.lock\n", "0123456789ab-dirty"),
        ("?? m/other.py\n?? m/weights.lock\n", "0123456789ab-dirty"),
        ("?? m/other_weights.lock\n", "0123456789ab-dirty"),
        ("?? weights.lock\n", "0123456789ab"),
        ("", "0123456789ab"),
    ],
)
def test_dirt(status: str, expected: str) -> None:
    def git(arguments: list[str], _folder: Path) -> "subprocess.CompletedProcess[str]":
        return subprocess.CompletedProcess(arguments, 0, status if arguments[0] == "status" else "0123456789abc\n", "")

    model = Model.model_validate({"name": "m", "weights": "model.pt", "handler": "tensor"})
    assert resolved_version(model, Path("m"), git) == expected
