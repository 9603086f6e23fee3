"""RunPlan in real git repositories: pushes, pull requests, renames, links, odd names, and histories that are cut or rewritten."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests import messages
from tests.errors import fails
from torchrelay.core.errors import InputsInvalid, ModelInvalid, SystemRefused
from torchrelay.workflow.inputs import check_inputs
from torchrelay.workflow.plan import RunPlan, plan_run

ROOT = Path(__file__).resolve().parents[2]
ZEROS = "0" * 40


class Repository:
    """A git repository with models, and the events that GitHub would send for it."""

    def __init__(self, folder: Path) -> None:
        self.dir = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.git("init", "-q", "-b", "main")

    def git(self, *arguments: str) -> str:
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
        done = subprocess.run(["git", *identity, *arguments], cwd=self.dir, check=True, capture_output=True)
        return os.fsdecode(done.stdout).strip()

    def model(self, folder: str, name: str | None = None) -> None:
        self.write(f"{folder}/model.yaml", f"name: {name or Path(folder).name}\nweights: model.pt\nhandler: handler.py\n")
        self.write(f"{folder}/handler.py", "one")

    def write(self, path: str, content: str = "x") -> None:
        (self.dir / path).parent.mkdir(parents=True, exist_ok=True)
        (self.dir / path).write_text(content)

    def commit(self, message: str = "change") -> str:
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "-m", message)
        return self.git("rev-parse", "HEAD")

    def plan(self, event: str = "push", payload: Any = None, base_ref: str = "", root: str = ".", **values: str) -> RunPlan:
        file = self.dir / ".git" / "event.json"
        file.write_text(json.dumps(payload or {}))
        environment = {"GITHUB_EVENT_NAME": event, "GITHUB_EVENT_PATH": str(file), "GITHUB_REF": "refs/heads/main"}
        if event == "workflow":
            environment |= {
                "GITHUB_EVENT_NAME": "push",
                "GITHUB_WORKFLOW_REF": "acme/m/.github/workflows/deploy.yml@refs/heads/main",
            }
        inputs = check_inputs({key.replace("_", "-"): value for key, value in values.items()})
        return plan_run(self.dir / root, inputs, environment, base_ref)

    def pushed(self, before: str, **more: Any) -> list[str]:
        """Return the names of the models that a push of HEAD over `before` builds."""
        return [model.name for model in self.plan("push", {"before": before}, **more).models]


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    repository = Repository(tmp_path / "repository")
    for name in ("a", "b", "c"):
        repository.model(f"models/{name}")
    repository.write("README.md")
    repository.commit("first")
    return repository


def head(repository: Repository) -> str:
    return repository.git("rev-parse", "HEAD")


def test_one_changed_model_of_fifty_is_found_quickly(repository: Repository) -> None:
    for number in range(50):
        repository.model(f"many/m{number}")
    before = repository.commit()
    repository.write("many/m17/handler.py", "two")
    repository.commit()
    begin = time.monotonic()
    planned = repository.plan("push", {"before": before}, models="many/*")
    assert [model.dir for model in planned.models] == ["many/m17"]
    assert planned.deploy
    assert planned.reason == f"1 of 50 models: changed since {before[:12]}: m17"
    assert time.monotonic() - begin < 1


def test_edit_add_delete_rename(repository: Repository) -> None:
    before = head(repository)
    repository.write("README.md", "two")
    repository.commit()
    assert repository.pushed(before) == []
    repository.write("models/a/handler.py", "two")
    repository.commit()
    assert repository.pushed(before) == ["a"]
    before = head(repository)
    repository.git("rm", "-q", "models/b/handler.py")
    repository.commit()
    assert repository.pushed(before) == ["b"]
    before = head(repository)
    repository.git("mv", "models/a/handler.py", "models/c/moved.py")
    repository.commit()
    assert repository.pushed(before) == ["a", "c"]
    before = head(repository)
    repository.git("mv", "models/a", "models/z")
    repository.git("rm", "-rq", "models/b")
    repository.commit()
    assert repository.pushed(before) == ["a"]  # under its name, in its new folder
    before = head(repository)
    (repository.dir / "models/c/handler.py").chmod(0o755)
    repository.commit()
    assert repository.pushed(before) == ["c"]


def test_several_commits_in_one_push(repository: Repository) -> None:
    before = head(repository)
    repository.write("models/a/handler.py", "two")
    repository.commit()
    repository.write("models/c/handler.py", "two")
    repository.commit()
    assert repository.pushed(before) == ["a", "c"]


def test_first_forced_deleting_and_unknown_pushes(repository: Repository) -> None:
    before = head(repository)
    repository.commit()
    every = ["a", "b", "c"]
    assert repository.pushed(ZEROS) == every
    assert "first push" in repository.plan("push", {"before": ZEROS}).reason
    assert repository.pushed("HEAD") == every  # an event names commits, nothing that git would look up
    assert repository.pushed("1" * 40) == every
    assert repository.pushed("--output=/tmp/x") == every
    assert repository.pushed("") == every
    forced = repository.plan("push", {"before": before, "forced": True})
    assert ([model.name for model in forced.models], forced.deploy) == (every, True)
    deleted = repository.plan("push", {"before": before, "after": ZEROS, "deleted": True})
    assert (deleted.models, deleted.deploy) == ([], False)
    assert "deleted" in deleted.reason


def test_a_rewritten_branch_without_the_forced_flag(repository: Repository) -> None:
    repository.write("models/a/handler.py", "two")
    before = repository.commit()
    repository.git("reset", "-q", "--hard", "HEAD~1")
    repository.write("models/b/handler.py", "two")
    repository.commit()
    assert repository.pushed(before) == ["a", "b"]


def test_a_shallow_clone_builds_all_and_gives_the_reason(repository: Repository, tmp_path: Path) -> None:
    before = head(repository)
    repository.write("models/a/handler.py", "two")
    repository.commit()
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", "--depth=1", f"file://{repository.dir}", clone], check=True)
    file = tmp_path / "event.json"
    file.write_text(json.dumps({"before": before}))
    environment = {"GITHUB_EVENT_NAME": "push", "GITHUB_EVENT_PATH": str(file), "GITHUB_REF": "refs/heads/main"}
    planned = plan_run(clone, check_inputs({}), environment)
    assert [model.name for model in planned.models] == ["a", "b", "c"]
    assert "fetch-depth: 0" in planned.reason


def test_a_pull_request_is_compared_with_its_fork_point(repository: Repository) -> None:
    repository.git("switch", "-qc", "fix")
    repository.write("models/b/handler.py", "two")
    repository.commit()
    repository.git("switch", "-q", "main")
    repository.write("models/a/handler.py", "two")
    base = repository.commit()
    repository.git("switch", "-q", "fix")
    planned = repository.plan("pull_request", {"pull_request": {"base": {"sha": base}}})
    assert [model.name for model in planned.models] == ["b"]  # what main got since is not its change
    assert not planned.deploy
    repository.git("merge", "-q", "--no-edit", "main")  # as GitHub checks it out
    assert [model.name for model in repository.plan("pull_request", {"pull_request": {"base": {"sha": base}}}).models] == ["b"]
    assert [model.name for model in repository.plan("merge_group", {"merge_group": {"base_sha": base}}).models] == ["b"]
    assert len(repository.plan("pull_request", {}).models) == 3


def test_manual_runs(repository: Repository) -> None:
    before = head(repository)
    repository.write("models/a/handler.py", "two")
    repository.commit()
    assert len(repository.plan("workflow_dispatch").models) == 3
    assert [model.name for model in repository.plan("workflow_dispatch", models="models/c\nmodels/b").models] == ["c", "b"]
    assert [model.name for model in repository.plan("", base_ref="HEAD~1").models] == ["a"]
    assert [model.name for model in repository.plan("", base_ref=before).models] == ["a"]
    for wrong in ("no-such", "--help", "-x", "HEAD~99", "x y"):
        with fails(InputsInvalid, "base-ref"):
            repository.plan("", base_ref=wrong)


def test_a_changed_calling_workflow_changes_every_model(repository: Repository) -> None:
    repository.write(".github/workflows/deploy.yml", "on: push")
    before = repository.commit()
    repository.write(".github/workflows/deploy.yml", "on: [push]")
    repository.commit()
    assert [model.name for model in repository.plan("workflow", {"before": before}).models] == ["a", "b", "c"]
    assert repository.pushed(before) == []  # another workflow's run


def test_a_model_at_the_top_beside_models_below(repository: Repository) -> None:
    repository.model(".", "top")
    before = repository.commit()
    repository.write("models/a/handler.py", "two")
    repository.commit()
    assert repository.pushed(before) == ["a"]
    before = head(repository)
    repository.write("handler.py", "two")
    repository.commit()
    assert repository.pushed(before) == ["top"]
    assert repository.pushed(before, models=".") == ["top"]


def test_the_only_model_at_the_top(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "single")
    repository.model(".", "digits")
    before = repository.commit()
    repository.write("samples/one.json")
    repository.commit()
    planned = repository.plan("push", {"before": before})
    assert planned.summary()["matrix"] == {"include": [{"model": "digits", "dir": ".", "fetch": False}]}


def test_files_reached_by_links(repository: Repository) -> None:
    repository.write("shared/common.py")
    (repository.dir / "models/a/common.py").symlink_to("../../shared/common.py")
    (repository.dir / "models/b/lib").symlink_to("../../shared")
    (repository.dir / "alias").symlink_to("models/c")
    (repository.dir / "models/a/out").symlink_to("/etc")
    (repository.dir / "models/a/broken").symlink_to("nothing")
    (repository.dir / "models/a/circle").symlink_to("circle")
    before = repository.commit()
    repository.write("shared/common.py", "two")
    repository.commit()
    assert repository.pushed(before) == ["a", "b"]
    before = head(repository)
    repository.write("models/c/handler.py", "two")
    repository.commit()
    named = repository.plan("push", {"before": before}, models="alias")
    assert [(model.name, model.dir) for model in named.models] == [("c", "alias")]
    before = head(repository)
    (repository.dir / "alias").unlink()
    (repository.dir / "alias").symlink_to("models/b")
    repository.commit()
    assert repository.pushed(before, models="alias") == ["b"]


def test_a_link_out_of_the_repository_is_refused(repository: Repository, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/model.yaml").write_text("name: x\n")
    (repository.dir / "out").symlink_to(tmp_path / "outside")
    with fails(InputsInvalid, "out", words=messages.OUTSIDE_LINK):
        repository.plan("workflow_dispatch", models="out")


def test_the_root_is_a_folder_of_the_repository(repository: Repository) -> None:
    before = head(repository)
    repository.write("models/a/handler.py", "two")
    repository.commit()
    planned = repository.plan("push", {"before": before}, root="models")
    assert [(model.name, model.dir) for model in planned.models] == [("a", "a")]
    assert repository.pushed(before, root="models", models="b\nc") == []


@pytest.mark.parametrize("folder", ["a b", "modèle", "数字", "with.dot", "x_y+z@1-2"])
def test_unusual_but_allowed_folder_names(repository: Repository, folder: str) -> None:
    repository.model(f"odd/{folder}", "odd")
    before = repository.commit()
    repository.write(f"odd/{folder}/handler.py", "two")
    repository.write(f"models/a/{folder} $(touch canary) \n\r\t'\"`.py")
    repository.commit()
    assert repository.pushed(before) == ["a", "odd"]
    assert not (repository.dir / "canary").exists()


@pytest.mark.parametrize(
    "folder", ["$(touch canary)", "`touch canary`", "a;b", "a\nb", "::error::x", "${{ x }}", "-n", "a'b", "\udcff"]
)
def test_hostile_folder_names_are_refused(repository: Repository, folder: str) -> None:
    repository.model(f"odd/{folder}", "odd")
    repository.commit()
    with fails(InputsInvalid, words=messages.FOLDER_NAME) as caught:
        repository.plan("workflow_dispatch")
    assert caught.value.message.isprintable()
    assert len(repository.plan("workflow_dispatch", models="models/*").models) == 3
    assert not (repository.dir / "canary").exists()


def test_names_must_be_unique_and_readable(repository: Repository) -> None:
    repository.model("twin", "a")
    repository.commit()
    with fails(InputsInvalid, '"models/a"', '"twin"'):
        repository.plan("workflow_dispatch")
    repository.write("twin/model.yaml", "name: 'Not Legal; id'\n")
    before = repository.commit()
    with fails(ModelInvalid, "twin/model.yaml", field="name", line=1):
        repository.plan("workflow_dispatch")
    repository.write("models/b/handler.py", "two")
    repository.commit()
    assert repository.pushed(before) == ["b"]  # a broken model that did not change holds nobody up
    repository.write("twin/model.yaml", "{")
    repository.commit()
    with fails(ModelInvalid, "twin/model.yaml", line=1):
        repository.plan("workflow_dispatch")


def test_untracked_and_missing_models(repository: Repository, tmp_path: Path) -> None:
    repository.model("fresh")
    assert len(repository.plan("workflow_dispatch").models) == 3
    assert [model.name for model in repository.plan("workflow_dispatch", models="fresh").models] == ["fresh"]
    with fails(InputsInvalid, "model/a", "models/a"):
        repository.plan("workflow_dispatch", models="model/a")
    empty = Repository(tmp_path / "empty")
    with fails(InputsInvalid, words=messages.NO_MODEL):
        empty.plan("workflow_dispatch")
    with fails(InputsInvalid, "nowhere", words=messages.NOT_A_FOLDER):
        empty.plan("workflow_dispatch", root="nowhere")


def test_outside_of_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    (tmp_path / "models/a").mkdir(parents=True)
    (tmp_path / "models/a/model.yaml").write_text("name: a\nweights: w\nhandler: tensor\n")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden/model.yaml").write_text("name: hidden\n")
    planned = plan_run(tmp_path, check_inputs({}), {"GITHUB_EVENT_NAME": "push", "GITHUB_REF": "refs/heads/main"})
    assert [model.dir for model in planned.models] == ["models/a"]
    assert "not a git repository" in planned.reason


def test_a_repository_of_another_user(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")  # git's own test hook
    with fails(SystemRefused, words=messages.OTHER_OWNER) as caught:
        repository.plan("workflow_dispatch")
    assert "safe.directory" in caught.value.fix


def test_the_command(repository: Repository) -> None:
    before = head(repository)
    repository.write("models/a/handler.py", "two")
    repository.commit()
    file = repository.dir / ".git/event.json"
    file.write_text(json.dumps({"before": before}))
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT / "scripts"),
        "GITHUB_EVENT_NAME": "push",
        "GITHUB_EVENT_PATH": str(file),
        "GITHUB_REF": "refs/heads/main",
        "TORCHRELAY_INPUTS": json.dumps({"models": "models/*", "dry-run": True, "environment": ""}),
    }

    def run(**more: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "torchrelay", "plan", "--json"]
        return subprocess.run(
            argv, cwd=repository.dir, env=environment | more, capture_output=True, text=True, timeout=60, check=False
        )

    done = run()
    assert done.returncode == 0, done.stderr
    reply = json.loads(done.stdout)
    assert reply["matrix"] == {"include": [{"model": "a", "dir": "models/a", "fetch": False}]}
    assert (reply["count"], reply["build"], reply["deploy"], reply["dry-run"]) == (1, True, False, True)
    assert json.loads(run(TORCHRELAY_MODELS="models/b").stdout)["count"] == 0
    wrong = run(TORCHRELAY_INPUTS='{"dry-run": "ja"}')
    assert wrong.returncode == 44
    assert "input dry-run" in json.loads(wrong.stdout)["error"]["message"]
    assert "Traceback" not in wrong.stderr


def test_weights_that_a_role_fetches_have_a_digest(repository: Repository) -> None:
    role = {"weights-role": "arn:aws:iam::123456789012:role/weights", "aws-region": "eu-west-1"}
    repository.write("far/model.yaml", "name: far\nweights: s3://bucket-of-weights/far/model.pt\nhandler: tensor\n")
    repository.commit()
    assert not repository.plan("workflow_dispatch", models="far").fetched
    with fails(InputsInvalid, "far", words=messages.NO_WEIGHTS_DIGEST) as caught:
        repository.plan("workflow_dispatch", models="far", **role)
    assert caught.value.fix.startswith("run `torchrelay fetch far`")
    repository.write("far/weights.lock", "{}")
    beside = repository.plan("workflow_dispatch", models="models/a\nfar", **role).summary()
    rows = [{"model": "a", "dir": "models/a", "fetch": False}, {"model": "far", "dir": "far", "fetch": True}]
    assert (beside["matrix"], beside["fetch-matrix"]) == ({"include": rows}, {"include": rows[1:]})
    files = repository.plan("workflow_dispatch", models="models/a", **role).summary()
    assert (files["fetch"], files["fetch-matrix"]) == (False, {"include": []}), "no job for what is in the repository"
