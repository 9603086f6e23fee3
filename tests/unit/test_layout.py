"""Where things are kept."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from torchrelay import cli as _registers_every_verb  # noqa: F401 -- by being imported
from torchrelay import console

MODEL = "name: far\nweights: https://models.example/far/model.pt\nhandler: tensor\n"


@pytest.mark.parametrize(("weights", "expected"), [("handed-over", "handed-over"), ("", "cache")])
def test_weights_lie_in_the_cache_or_in_a_folder_that_another_job_filled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: str, expected: str
) -> None:
    (tmp_path / "model.yaml").write_text(MODEL)
    monkeypatch.setenv("TORCHRELAY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCHRELAY_WEIGHTS_CACHE", str(tmp_path / weights) if weights else "")
    done = CliRunner().invoke(console.app, ["fetch", str(tmp_path), "--dry-run", "--json"])
    assert done.exit_code == 0, done.output
    assert str(tmp_path / expected / "weights") in json.dumps(json.loads(done.stdout))
