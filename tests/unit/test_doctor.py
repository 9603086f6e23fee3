"""Doctor's frame: all findings at once, in order, in time, each with its mend; and what it reads of a caller's workflow."""

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from torchrelay import doctor
from torchrelay.core.errors import DoctorFailed, RegistryError
from torchrelay.doctor import machine, workflow
from torchrelay.doctor.finding import DoctorOptions, Finding, Subject, bad, good

MODEL = "name: digits\nweights: model.pt\nhandler: tensor\n"
SERVE = """
on:
  workflow_call:
    inputs: {models: {type: string}, environment: {type: string}}
    secrets: {kubeconfig: {required: false}}
jobs:
  build: {permissions: {contents: read}}
  deploy: {permissions: {contents: read, id-token: write}}
"""


@pytest.fixture
def model_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.yaml").write_text(MODEL)
    (folder / "model.pt").write_bytes(b"PK weights")
    return folder


def test_every_finding_comes_in_the_order_of_the_checks(model_dir: Path) -> None:
    def several(_: Subject) -> Iterator[Finding]:
        yield good("b1", "x")
        yield bad("b2", "broken", "fix it")

    def refused(_: Subject) -> Finding:
        raise RegistryError("the registry refused", "log in")

    checks = doctor.examine(
        DoctorOptions(model_dir), {"a": lambda _: good("a", "fine"), "b": several, "c": refused, "d": lambda _: None}
    )
    assert [(check.name, check.ok) for check in checks] == [("model", True), ("a", True), ("b1", True), ("b2", False), ("c", False)]
    assert checks[-1] == Finding("c", False, "the registry refused", "log in")


def test_a_check_that_hangs_hides_no_other_and_is_a_finding(model_dir: Path) -> None:
    release = threading.Event()
    began = time.monotonic()
    checks = doctor.examine(
        DoctorOptions(model_dir),
        {"slow": lambda _: good("slow", str(release.wait(20))), "fast": lambda _: good("fast", "x")},
        deadline_s=0.2,
    )
    release.set()
    assert time.monotonic() - began < 5
    assert [(check.name, check.ok) for check in checks] == [("model", True), ("slow", False), ("fast", True)]
    assert "no response within" in checks[1].detail


def test_a_check_with_a_bug_is_a_finding_that_tells_no_secret(model_dir: Path) -> None:
    def broken(_: Subject) -> Finding:
        raise ValueError("https://user:hunter2@host")

    checks = doctor.examine(DoctorOptions(model_dir), {"x": broken})
    assert not checks[-1].ok
    assert "ValueError at test_doctor.py:" in checks[-1].detail
    assert "hunter2" not in json.dumps([check.summary() for check in checks])


def test_a_model_that_is_wrong_is_a_finding_and_the_rest_goes_on(model_dir: Path) -> None:
    (model_dir / "model.yaml").write_text("name: digits\nweights: model.pt\nhandler: tensor\nbatch: {size: 0}\nworker: 2\n")
    checks = doctor.examine(DoctorOptions(model_dir), {"a": lambda _: good("a", "x")})
    assert [(check.name, check.ok) for check in checks] == [("model", False), ("model", False), ("a", True)]
    assert "model.yaml:4: batch.size" in checks[0].detail
    checks = doctor.examine(DoctorOptions(model_dir / "none"), {"a": lambda _: good("a", "x")})
    assert [(check.name, check.ok) for check in checks] == [("model", False), ("a", True)]


def test_a_target_that_is_not_there_is_a_finding(model_dir: Path) -> None:
    checks = doctor.examine(DoctorOptions(model_dir, target="moon"), {})
    assert [(check.name, check.ok) for check in checks] == [("model", True), ("target", False)]


def test_failures_end_in_one_error_with_every_mend() -> None:
    doctor.require_passing([good("a", "x")])
    with pytest.raises(DoctorFailed) as caught:
        doctor.require_passing([good("a", "x"), bad("b", "broken", "fix b"), bad("c", "gone", "bring c")])
    assert caught.value.exit_code == 36
    assert caught.value.message == "b: broken\nc: gone"
    assert "b: fix b" in caught.value.fix
    assert "c: bring c" in caught.value.fix


def test_brackets_in_a_mend_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    doctor.show([bad("rights", "no", 'add {apiGroups: ["apps"], verbs: [get]}')])
    assert '{apiGroups: ["apps"], verbs: [get]}' in capsys.readouterr().err


@pytest.mark.parametrize(("free", "ok"), [(200 << 30, True), (4 << 30, False)])
def test_disk_is_held_against_the_weights(model_dir: Path, monkeypatch: pytest.MonkeyPatch, free: int, ok: bool) -> None:
    (model_dir / "weights.lock").write_text(
        json.dumps({"source": "s3://bucket/model.pt", "size": 10 << 30, "sha256": "0" * 64, "version": ""})
    )
    (model_dir / "model.yaml").write_text(MODEL.replace("model.pt", "s3://bucket/model.pt"))
    monkeypatch.setenv("TORCHRELAY_CACHE", str(model_dir / "not" / "yet"))
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": free}))
    monkeypatch.setattr(machine, "_docker_root", lambda: model_dir)
    checks = [check for check in doctor.examine(DoctorOptions(model_dir), {"disk": machine.disk}) if check.name != "model"]
    assert [check.name for check in checks] == ["disk", "disk of docker"]
    assert [check.ok for check in checks] == [ok, ok]
    assert "31.0 GiB needed for 10.0 GiB of weights" in checks[0].detail


@pytest.fixture
def caller(model_dir: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Return where the caller's workflow goes; serve.yml is the one above."""
    serve = tmp_path / "serve.yml"
    serve.write_text(SERVE)
    monkeypatch.setattr(workflow, "SERVE", serve)
    monkeypatch.setattr(workflow.needed_permissions, "__defaults__", (serve,))
    (model_dir / ".git").mkdir()
    (model_dir / ".github" / "workflows").mkdir(parents=True)
    return model_dir / ".github" / "workflows" / "deploy.yml"


def read(caller: Path, text: str) -> list[Finding]:
    caller.write_text(text)
    return [
        check
        for check in doctor.examine(DoctorOptions(caller.parents[2]), {"workflow": workflow.workflow})
        if check.name != "model"
    ]


GOOD = """on: {push: {branches: [main]}, pull_request: {}}
permissions: {}
jobs:
  serve:
    uses: org/deploy/.github/workflows/serve.yml@main
    permissions: {contents: read, id-token: write}
    with: {environment: production}
"""


def test_a_good_workflow_is_well(caller: Path) -> None:
    checks = read(caller, GOOD)
    assert [(check.ok, check.detail) for check in checks] == [(True, ".github/workflows/deploy.yml:4: job serve calls serve.yml")]
    assert read(caller, GOOD.replace("{contents: read, id-token: write}", "write-all"))[0].ok
    moved = GOOD.replace("    permissions: {contents: read, id-token: write}\n", "").replace(
        "permissions: {}", "permissions: {contents: write, id-token: write}"
    )
    assert read(caller, moved)[0].ok


@pytest.mark.parametrize(
    ("before", "after", "message", "fix"),
    [
        (", id-token: write", "", "deploy.yml:6: job serve does not grant id-token: write", "id-token: write"),
        ("id-token: write", "id-token: read", "deploy.yml:6: job serve does not grant id-token: write", "id-token: write"),
        ("contents: read, ", "", "deploy.yml:6: job serve does not grant contents: read", "contents: read"),
        (
            "{contents: read, id-token: write}",
            "read-all",
            "deploy.yml:6: job serve does not grant id-token: write",
            "id-token: write",
        ),
        ("    permissions: {contents: read, id-token: write}\n", "", "deploy.yml:2: job serve does not grant", "permissions:"),
        (
            "environment: production",
            "enviroment: production",
            'deploy.yml:7: serve.yml has no input "enviroment"',
            "did you mean environment?",
        ),
        (
            "with: {environment: production}",
            "secrets: {kubconfig: x}",
            'deploy.yml:7: serve.yml has no secret "kubconfig"',
            "kubeconfig",
        ),
        (
            "pull_request: {}",
            "pull_request_target: {}",
            "deploy.yml:1: pull_request_target runs a fork's code",
            "write pull_request",
        ),
    ],
)
def test_what_would_stop_the_run_is_named_with_its_line(caller: Path, before: str, after: str, message: str, fix: str) -> None:
    assert before in GOOD
    failed = [check for check in read(caller, GOOD.replace(before, after)) if not check.ok]
    assert len(failed) == 1
    assert message in failed[0].detail
    assert fix in failed[0].fix


def test_no_permissions_at_all_is_named(caller: Path) -> None:
    text = GOOD.replace("permissions: {}\n", "").replace("    permissions: {contents: read, id-token: write}\n", "")
    (failed,) = read(caller, text)
    assert "deploy.yml:4: job serve has no permissions" in failed.detail
    assert "id-token: write" in failed.fix


def test_a_workflow_that_is_no_yaml_is_a_finding_only_when_it_calls_serve(caller: Path) -> None:
    assert [check.ok for check in read(caller, GOOD + "\t- x\n")] == [False, True]
    assert [check.ok for check in read(caller, "jobs: [\n")] == [True]


@pytest.mark.parametrize(
    "text",
    [
        "jobs: [a]\n",
        "jobs: {a: b}\n",
        "jobs: {a: {uses: 5}}\n",
        "on: push\n",
        "jobs: {a: {uses: o/d/.github/workflows/other.yml@v1}}\n",
    ],
)
def test_other_workflows_are_none_of_ours(caller: Path, text: str) -> None:
    (check,) = read(caller, text)
    assert check.ok
    assert "no workflow calls serve.yml" in check.detail


def test_what_serve_asks_for_is_read_from_it(caller: Path) -> None:
    assert workflow.needed_permissions(workflow.SERVE) == {"contents": "read", "id-token": "write"}
    assert workflow.needed_permissions(caller.parent / "none.yml") == workflow.NEEDED
