"""The state of a model directory is what stages left in it: what came with its repository is refused by every verb."""

import json
import subprocess
from pathlib import Path

import pytest

from tests import messages
from tests.errors import fails
from tests.integration.bundles import verified_model
from tests.integration.test_bundle import run
from torchrelay.core.errors import ModelInvalid
from torchrelay.core.workspace import Workspace
from torchrelay.workflow.job_result import gather


def git(folder: Path, *arguments: str) -> None:
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    subprocess.run(["git", "-C", str(folder), *who, *arguments], check=True, capture_output=True, timeout=30)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A verified model directory in a repository; its state is not committed."""
    folder = tmp_path / "repository" / "models" / "digits"
    verified_model(folder)
    git(tmp_path / "repository", "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "all")
    return folder


VERBS = (["check"], ["archive"], ["verify"], ["bundle", "--output", "out"], ["diff", "--live-url", "http://127.0.0.1:9"])


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb[0])
def test_state_that_was_committed_is_refused(verb: list[str], model: Path, tmp_path: Path) -> None:
    arguments = [str(tmp_path / one) if one == "out" else one for one in verb]
    before = run(arguments[0], model, *arguments[1:])
    assert "committed to git" not in before.stderr
    git(model, "add", "--force", ".torchrelay/verdict.json")
    done = run(arguments[0], model, *arguments[1:], "--json")
    assert done.returncode == ModelInvalid.exit_code, done.stderr
    assert json.loads(done.stdout)["error"]["problems"][0]["fix"].startswith("run `git rm -r --cached .torchrelay`")


def test_control_uncommitted_state_is_trusted(model: Path) -> None:
    Workspace(model).reject_foreign()
    assert gather(model, bundle=False).result == "passed"
    git(model, "add", "--force", ".torchrelay/verdict.json")
    result = gather(model, bundle=False)
    assert (result.result, result.model, result.version, result.samples) == ("failed", "digits", "", [])
    assert result.error is not None
    assert result.error.kind == "model_invalid"


def test_a_link_is_neither_followed_nor_written_through(model: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    Workspace(model).root.rename(elsewhere)
    Workspace(model).root.symlink_to(elsewhere)
    (elsewhere / "error.json").write_text(json.dumps({"stage": "check"}))
    held = {path: path.read_bytes() for path in elsewhere.iterdir()}
    for verb in (["check"], ["archive"], ["verify"]):
        done = run(verb[0], model)
        assert done.returncode == ModelInvalid.exit_code, done.stderr
        assert "is a symbolic link" in done.stderr
    with fails(ModelInvalid, words=messages.SYMBOLIC_LINK):
        Workspace(model).ensure()
    assert {path: path.read_bytes() for path in elsewhere.iterdir()} == held
