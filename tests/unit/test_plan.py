"""The plan without git: the models that a change affects, the folders that are selected, and what an event allows."""

import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests import messages
from tests.errors import fails
from torchrelay.core.errors import InputsInvalid, ModelInvalid, Problem
from torchrelay.workflow.event import Event
from torchrelay.workflow.inputs import Inputs, check_inputs
from torchrelay.workflow.plan import (
    ModelFolder,
    RunPlan,
    changed_models,
    decide,
    normalise,
    plan_run,
    require_plain,
    select_folders,
)

MAIN = Event("push", "refs/heads/main", payload={"repository": {"default_branch": "main"}})
MODELS = [ModelFolder(f"m{number}", f"models/m{number}", f"models/m{number}") for number in range(50)]


FAR = [ModelFolder("far", "far", "far", remote=True)]


def inputs(**values: Any) -> Inputs:
    return check_inputs({key.replace("_", "-"): value for key, value in values.items()})


def folder(name: str, path: str, *elsewhere: str) -> ModelFolder:
    return ModelFolder(name, path or ".", path, elsewhere)


def names(models: list[ModelFolder]) -> list[str]:
    return [model.name for model in models]


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        (["models/m7/handler.py"], ["m7"]),
        (["models/m7/deep/er/x", "models/m12/model.yaml"], ["m7", "m12"]),
        (["README.md", ".github/workflows/deploy.yml"], []),
        (["models/m1x/handler.py", "models/m"], []),
        (["xmodels/m1/handler.py", "m1"], []),
        (["models/m3"], ["m3"]),
        ([], []),
        (["models/m4/a b\n\u00fc$(x)"], ["m4"]),
    ],
)
def test_only_changed_models_of_fifty_are_built(changed: list[str], expected: list[str]) -> None:
    assert names(changed_models(MODELS, [], changed)) == expected


def test_a_changed_submodule_changes_every_model_in_it() -> None:
    assert changed_models(MODELS, [], ["models"]) == MODELS


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        (["handler.py"], ["top"]),
        (["sub/handler.py"], ["sub"]),
        (["sub/er/handler.py"], ["sub"]),
        (["sub/deep/handler.py"], ["deep"]),
        (["other/x"], ["top"]),
        (["sub/vocabulary.txt"], ["top", "sub"]),
        (["not-chosen/x"], []),
        (["elsewhere/shared.py"], ["sub"]),
    ],
)
def test_a_path_belongs_to_the_innermost_model(changed: list[str], expected: list[str]) -> None:
    every = ["", "sub", "sub/deep", "not-chosen", "elsewhere"]
    models = [folder("top", "", "sub/vocabulary.txt"), folder("sub", "sub", "elsewhere/shared.py"), folder("deep", "sub/deep")]
    assert names(changed_models(models, every, changed)) == expected


FOUND = [".", "a", "models/digits", "models/tab ular", "models/old/digits", "models/[x]"]


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        ([], FOUND),
        (["a"], ["a"]),
        (["./a/", "a", "a//"], ["a"]),
        (["."], ["."]),
        (["models/*"], ["models/digits", "models/tab ular", "models/[x]"]),
        (["models/**"], FOUND[2:]),
        (["**/digits"], ["models/digits", "models/old/digits"]),
        (["models/old/*", "a"], ["models/old/digits", "a"]),
        (["models/tab ular"], ["models/tab ular"]),
        (["models/[x]"], ["models/[x]"]),
    ],
)
def test_folders_and_globs(patterns: list[str], expected: list[str]) -> None:
    assert select_folders(patterns, FOUND, dict.fromkeys(FOUND, True)) == expected


@pytest.mark.parametrize(
    ("patterns", "message", "fix"),
    [
        (["modls/digits"], '"modls/digits" has no model.yaml', "did you mean models/digits?"),
        (["models/x*"], "no folder with a model.yaml matches", "correct"),
        (["a", "zzz"], '"zzz" has no model.yaml', "correct"),
        (["../a"], "is outside the repository", "relative"),
        (["/a"], "is outside the repository", "relative"),
        (["~/a"], "is outside the repository", "relative"),
        (["a\\b"], "is outside the repository", "relative"),
        (["a/../.."], "is outside the repository", "relative"),
    ],
)
def test_unknown_folders_are_refused(patterns: list[str], message: str, fix: str) -> None:
    with pytest.raises(InputsInvalid) as caught:
        select_folders(patterns, FOUND)
    assert message in caught.value.message
    assert fix in caught.value.fix


def test_no_model_at_all() -> None:
    with fails(InputsInvalid, words=messages.NO_MODEL):
        select_folders([], [])


def test_a_pattern_of_many_stars_is_fast() -> None:
    with pytest.raises(InputsInvalid):
        select_folders(["/".join(["**"] * 300 + ["x"]).lstrip("/")], ["/".join(["a"] * 200)])


@pytest.mark.parametrize("name", [".", "digits", "a/b c/D.e_f+g@1-2", "modèles/数字", "v1..2"])
def test_plain_folders(name: str) -> None:
    require_plain(name)
    assert normalise(name) == name


@pytest.mark.parametrize(
    "name",
    ["$(touch x)", "`id`", "a;b", "a|b", "a&b", "a>b", "a'b", 'a"b', "a*b", "a?", "[a]", "{a}", "${{ secrets.X }}", "a\nb", "a\rb",
     "::error::x", "a%0Ab", "-rf", "a/-x", " a", "a ", "a\tb", "a\x1b[2J", "a\u202eb", "a\u2028b", "\udc80", "a\u00a0b", "a#b",
     "a!b", "a~b", "a,b", "a=b", "a:b", "x" * 600],
)  # fmt: skip
def test_an_unsafe_folder_name_is_refused_and_escaped(name: str) -> None:
    with pytest.raises(InputsInvalid) as caught:
        require_plain(name)
    assert "the folder" in caught.value.message
    assert caught.value.message.isprintable()


def plan_of(event: Event = MAIN, models: list[ModelFolder] = MODELS[:1], **values: Any) -> RunPlan:
    return decide(event, inputs(**values), models, models, "why")


@pytest.mark.parametrize(
    ("event", "deploy"),
    [
        (MAIN, True),
        (replace(MAIN, ref="refs/heads/fix"), False),
        (replace(MAIN, ref="refs/tags/main"), False),
        (Event("push", "refs/heads/trunk", payload={"repository": {"default_branch": "trunk"}}), True),
        (Event("push", "refs/heads/main", payload={"repository": {"default_branch": "trunk"}}), False),
        (Event("push", "refs/heads/master"), True),
        (Event("push", "refs/heads/fix"), False),
        (Event("workflow_dispatch", "refs/heads/main"), True),
        (Event("workflow_dispatch", "refs/heads/fix"), False),
        (Event("workflow_dispatch", "refs/tags/v1"), False),
        (Event("schedule", "refs/heads/main"), True),
        (Event(), True),
        (Event("pull_request", "refs/pull/1/merge"), False),
        (Event("pull_request", "refs/heads/main"), False),
        (Event("merge_group", "refs/heads/main"), False),
        (Event("issue_comment", "refs/heads/main"), False),
        (Event("workflow_run", "refs/heads/main"), False),
        (Event("release", "refs/tags/v1"), False),
        (Event("pull_request_review", "refs/pull/1/merge"), False),
        (Event("repository_dispatch", "refs/heads/main"), False),
        (Event("made_up", "refs/heads/main"), False),
    ],
)
def test_the_events_that_deploy(event: Event, deploy: bool) -> None:
    planned = plan_of(event)
    assert planned.deploy is deploy
    assert planned.summary()["build"] is True


@pytest.mark.parametrize("environment", ["production", "Production", "PRODUCTION", "prod", "live", "staging", ""])
def test_a_manual_run_of_another_branch_deploys_nowhere_by_default(environment: str) -> None:
    assert plan_of(Event("workflow_dispatch", "refs/heads/fix"), environment=environment).deploy is False
    assert plan_of(Event("workflow_dispatch", "refs/heads/main"), environment=environment).deploy is True


@pytest.mark.parametrize(
    ("environment", "deploy"), [("staging", True), ("Staging", True), ("qa", True), ("production", False), ("Production", False)]
)
def test_a_manual_run_of_another_branch_deploys_to_the_listed_environments(environment: str, deploy: bool) -> None:
    allowed: dict[str, Any] = {"environment": environment, "any_branch_environments": " STAGING \n\nqa\n"}
    assert plan_of(Event("workflow_dispatch", "refs/heads/fix"), **allowed).deploy is deploy
    assert plan_of(Event("push", "refs/heads/fix"), **allowed).deploy is False
    assert plan_of(Event("pull_request", "refs/pull/1/merge"), **allowed).deploy is False


def test_the_samples_of_a_fork_are_not_sent_to_the_live_endpoint() -> None:
    live: dict[str, Any] = {"live_url": "https://x.org"}
    assert plan_of(pull_of({"full_name": "acme/models"}), **live).diff is True
    assert plan_of(pull_of({"full_name": "mallory/models"}), **live).diff is False
    assert plan_of(pull_of(None), **live).diff is False


@pytest.mark.parametrize("values", [{"dry_run": True}, {"dry_run": "true"}, {"skip": "deploy"}])
def test_inputs_that_prevent_a_deployment(values: dict[str, Any]) -> None:
    assert plan_of(**values).deploy is False


def test_flags_of_the_jobs() -> None:
    pull = pull_of({"full_name": "acme/models"})
    all_in: dict[str, Any] = {
        "live_url": "https://x.org",
        "weights_role": "arn:aws:iam::123456789012:role/x",
        "repository": "127.0.0.1:5000/x/",
    }
    planned = plan_of(pull, FAR, **all_in)
    assert (planned.diff, planned.comment, bool(planned.fetched), planned.attest) == (True, True, True, False)
    planned = plan_of(MAIN, FAR, **all_in)
    assert (planned.diff, planned.comment, bool(planned.fetched), planned.attest) == (True, False, True, True)
    planned = plan_of(MAIN, skip="diff attest comment", **all_in)
    assert (planned.diff, planned.attest, planned.deploy) == (False, False, True)
    assert plan_of(pull, skip="comment").comment is False
    assert plan_of(MAIN).attest is False  # nothing is pushed, so there is nothing to attach statements to


def pull_of(head: Any, name: str = "pull_request") -> Event:
    base = {"repo": {"full_name": "acme/models"}}
    return Event(name, "refs/pull/1/merge", payload={"pull_request": {"base": base, "head": {"repo": head}}})


def test_a_run_for_a_fork_asks_for_no_credentials() -> None:
    role = "arn:aws:iam::123456789012:role/x"
    assert plan_of(pull_of({"full_name": "acme/models"}), FAR, weights_role=role).fetched == FAR
    assert plan_of(pull_of({"full_name": "mallory/models"}), FAR, weights_role=role).fetched == []
    assert plan_of(pull_of(None), FAR, weights_role=role).fetched == []  # the fork is gone
    for name in ("pull_request_review", "pull_request_review_comment", "made_up"):
        assert plan_of(pull_of({"full_name": "acme/models"}, name), FAR, weights_role=role).fetched == FAR
        assert plan_of(pull_of({"full_name": "mallory/models"}, name), FAR, weights_role=role).fetched == []
    assert plan_of(Event("pull_request_review", payload={"pull_request": "?"}), FAR, weights_role=role).fetched == []


def test_a_public_repository_cannot_use_a_weights_role() -> None:
    role = "arn:aws:iam::123456789012:role/x"
    for private, refused in ((False, True), (True, False), (None, False)):
        event = replace(MAIN, payload={"repository": {"default_branch": "main", "private": private}})
        assert plan_of(event, weights_role=role).fetched == []  # files of the repository
        assert plan_of(event, FAR).fetched == []
        with fails(InputsInvalid, "weights-role: ") if refused else nullcontext():
            assert plan_of(event, FAR, weights_role=role).fetched == FAR


def test_without_changes_there_is_nothing_to_do() -> None:
    planned = decide(MAIN, inputs(), MODELS, [], "changed since 0123456789ab")
    assert planned.summary() == {
        "matrix": {"include": []},
        "fetch-matrix": {"include": []},
        "count": 0,
        "build": False,
        "deploy": False,
        "fetch": False,
        "diff": False,
        "comment": False,
        "attest": False,
        "dry-run": False,
        "reason": "0 of 50 models: changed since 0123456789ab",
    }


def test_the_matrix() -> None:
    planned = decide(MAIN, inputs(), MODELS, MODELS[3:5], "changed since 0123456789ab")
    assert planned.summary()["matrix"] == {"include": [
        {"model": "m3", "dir": "models/m3", "fetch": False}, {"model": "m4", "dir": "models/m4", "fetch": False},
    ]}  # fmt: skip
    assert planned.reason == "2 of 50 models: changed since 0123456789ab: m3, m4"


def test_two_models_with_the_same_name_are_refused() -> None:
    twins = [folder("digits", "a"), folder("digits", "b")]
    with fails(InputsInvalid, '"a"', '"b"', "digits"):
        decide(MAIN, inputs(), twins, [], "")


def test_a_model_without_a_name_is_an_error_only_if_it_changed() -> None:
    nameless = replace(folder("", "b"), problems=(Problem("model.yaml", 3, "name", "is not a legal name"),))
    two = [*MODELS[:1], nameless]
    assert decide(MAIN, inputs(), two, MODELS[:1], "").models == MODELS[:1]
    with fails(ModelInvalid, "b/model.yaml", field="name", line=3):
        decide(MAIN, inputs(), two, two, "")


def test_more_models_than_a_matrix_can_have() -> None:
    many = [folder(f"m{number}", f"m{number}") for number in range(257)]
    assert len(decide(MAIN, inputs(), many, many[:256], "").models) == 256
    with fails(InputsInvalid, "256"):
        decide(MAIN, inputs(), many, many, "")


@pytest.mark.parametrize(
    ("values", "target", "names"),
    [
        ({"repository": "127.0.0.1:5000/x"}, "docker", ["repository: ", "2 models"]),
        ({}, "local", ["target: "]),
        ({}, "kubernetes", ["repository: ", "kubernetes"]),
    ],
)
def test_contradicting_inputs_are_refused(values: dict[str, Any], target: str, names: list[str]) -> None:
    two = [replace(model, target=target) for model in MODELS[:2]]
    with fails(InputsInvalid, *names):
        decide(MAIN, inputs(**values), two, two, "")


def test_an_input_overrides_the_model() -> None:
    assert plan_of(models=[replace(MODELS[0], target="local")], target="docker").deploy is True


def test_pull_request_target_is_refused(tmp_path: Path) -> None:
    with fails(InputsInvalid, "pull_request_target") as caught:
        plan_run(tmp_path, inputs(), {"GITHUB_EVENT_NAME": "pull_request_target"})
    assert "on: pull_request" in caught.value.fix


@pytest.mark.parametrize("text", [None, "", "{", "[]", "3", '{"repository": 3}', '{"before": {"x": 1}}', "[" * 100_000])
def test_an_unreadable_event_counts_as_empty(tmp_path: Path, text: str | None) -> None:
    file = tmp_path / "event.json"
    if text is not None:
        file.write_text(text)
    event = Event.of({"GITHUB_EVENT_NAME": "push", "GITHUB_REF": "refs/heads/main", "GITHUB_EVENT_PATH": str(file)})
    assert (event.text("before"), event.text("repository", "default_branch"), event.on_default_branch) == ("", "", True)


def test_the_calling_workflow() -> None:
    ref = "acme/models/.github/workflows/deploy.yml@refs/heads/main"
    assert Event.of({"GITHUB_WORKFLOW_REF": ref}).workflow == ".github/workflows/deploy.yml"
    assert Event.of({"GITHUB_WORKFLOW_REF": ""}).workflow == ""
    assert json.dumps(Event.of({}).text("x")) == '""'
