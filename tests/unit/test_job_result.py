"""Results are read from the state that the stages wrote, however damaged; the files of many jobs become one result per model."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.runner_lines import HOSTILE
from torchrelay.core.errors import LoginFailed
from torchrelay.stages import error_file
from torchrelay.workflow import job_result, run_results
from torchrelay.workflow.job_result import Failure, JobResult, StageRow


@pytest.fixture(autouse=True)
def no_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RUNNER_TEMP", raising=False)


DIGEST = f"sha256:{'a' * 64}"
VERDICT = {
    "result": "passed",
    "model": "digits",
    "version": "v1",
    "image": DIGEST,
    "samples": [{"name": "zero", "passed": True, "differences": [], "alone_ms": 1.5, "together_ms": [2, 3.5]}],
}


def left(folder: Path, **files: Any) -> Path:
    (folder / ".torchrelay").mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        (folder / ".torchrelay" / f"{name}.json").write_text(json.dumps(value))
    return folder


def test_a_build_job_reports_everything(tmp_path: Path) -> None:
    deploy = {
        "stage": "deploy",
        "seconds": 3.0,
        "began": 1.0,
        "skipped": False,
        "url": "http://x",
        "target": "docker",
        "previous": "p",
    }
    push = {"stage": "push", "seconds": 1.0, "bytes": 10, "blobs": 2, "reference": f"r/x@{DIGEST}"}
    layers = [{"digest": DIGEST, "size": 7, "created_by": "weights", "parts": []}]
    diff = {
        "url": "http://live",
        "reachable": True,
        "reason": "",
        "samples": [{"name": "zero", "same": False, "differences": ["d"]}],
    }
    left(tmp_path, verdict=VERDICT, stages=[push, deploy], image={"layers": layers}, diff=diff)
    result = job_result.gather(tmp_path, bundle=False)
    assert (result.model, result.version, result.result, result.job) == ("digits", "v1", "passed", "build")
    assert (result.endpoint, result.target, result.previous, result.reference) == ("", "", "", "")  # a build job makes nothing live
    assert result.image == DIGEST
    assert [row.stage for row in result.stages] == ["push", "deploy"]
    assert result.stages[0].bytes == 10
    assert result.samples[0].together_ms == [2, 3.5]
    assert result.layers[0].size == 7
    assert result.diff is not None
    assert not result.diff.samples[0].same
    assert result.error is None


def test_a_deploy_job_reports_the_live_endpoint(tmp_path: Path) -> None:
    deploy = {"stage": "deploy", "seconds": 3.0, "url": "http://x", "target": "docker", "previous": "p"}
    (tmp_path / "release.json").write_text(json.dumps({"model": {"name": "digits"}, "version": "v1", "verdict": VERDICT}))
    left(tmp_path, stages=[deploy], push={"reference": f"r/x@{DIGEST}"})
    result = job_result.gather(tmp_path, bundle=True)
    assert (result.endpoint, result.target, result.previous) == ("http://x", "docker", "p")
    assert result.reference == f"r/x@{DIGEST}"


def test_state_behind_a_link_is_not_trusted(tmp_path: Path) -> None:
    elsewhere = left(tmp_path / "elsewhere", verdict=VERDICT) / ".torchrelay"
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / ".torchrelay").symlink_to(elsewhere)
    result = job_result.gather(tmp_path / "m", bundle=False)
    assert (result.result, result.samples) == ("failed", [])
    assert result.error is not None
    assert (result.error.kind, result.error.problems[0].file) == ("model_invalid", ".torchrelay")


@pytest.mark.parametrize("kind", ["gate_failed", "rolled_back", "rollback_failed"])
def test_a_failed_verification_or_rollout_is_the_result(kind: str, tmp_path: Path) -> None:
    error = {"stage": "deploy", "kind": kind, "message": "m", "fix": "", "problems": []}
    assert job_result.gather(left(tmp_path, verdict=VERDICT, error=error), bundle=False).result == kind


@pytest.mark.parametrize("kind", ["registry_error", "passed", "", "x"])
def test_every_other_error_gives_failed(kind: str, tmp_path: Path) -> None:
    error = {"stage": "push", "kind": kind, "message": "m", "fix": "", "problems": []}
    assert job_result.gather(left(tmp_path, verdict=VERDICT, error=error), bundle=False).result == "failed"


def test_neither_verified_nor_served_gives_failed(tmp_path: Path) -> None:
    assert job_result.gather(tmp_path, bundle=False).result == "failed"
    assert job_result.gather(left(tmp_path, verdict=VERDICT), bundle=False).result == "passed"


def test_a_model_served_without_an_image_passed(tmp_path: Path) -> None:
    row = {"stage": "deploy", "seconds": 1.0, "url": "http://x", "target": "local", "version": "v2"}
    result = job_result.gather(left(tmp_path, stages=[row]), bundle=False)
    assert (result.result, result.version) == ("passed", "v2")


def test_a_failed_login_is_reported_for_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNNER_TEMP", str(tmp_path / "temp"))
    left(tmp_path / "m", verdict=VERDICT)
    error_file.keep(None, "login", LoginFailed("no role"))
    result = job_result.gather(tmp_path / "m", bundle=False, job_status="failure")
    assert result.result == "failed"
    assert result.error is not None
    assert (result.error.stage, result.error.kind, result.error.message) == ("login", "login_failed", "no role")


@pytest.mark.parametrize("status", ["failure", "cancelled"])
def test_an_interrupted_job_did_not_pass(status: str, tmp_path: Path) -> None:
    left(tmp_path, verdict=VERDICT)
    assert job_result.gather(tmp_path, bundle=False, job_status="success").result == "passed"
    result = job_result.gather(tmp_path, bundle=False, job_status=status)
    assert result.result == "failed"
    assert result.error is not None
    assert result.error.kind == "interrupted"


def test_a_bundles_state_folder_does_not_change_the_verdict(tmp_path: Path) -> None:
    blobs = tmp_path / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    (blobs / "c").write_text(json.dumps({"history": [{"empty_layer": True, "created_by": "no"}, {"created_by": "weights"}]}))
    manifest = {"config": {"digest": "sha256:c"}, "layers": [{"digest": DIGEST, "size": 5}]}
    (blobs / "m").write_text(json.dumps(manifest))
    (tmp_path / "index.json").write_text(json.dumps({"manifests": [{"digest": "sha256:m"}]}))
    (tmp_path / "stages.json").write_text(
        json.dumps([{"stage": "build", "seconds": 2.0}, {"stage": "push", "seconds": 9.0}, {"x": 1}])
    )
    (tmp_path / "release.json").write_text(json.dumps({"model": {"name": "digits"}, "version": "v1", "verdict": VERDICT}))
    left(tmp_path, verdict={**VERDICT, "model": "other"}, stages=[{"stage": "push", "seconds": 1.0}])
    result = job_result.gather(tmp_path, bundle=True)
    assert (result.model, result.job, result.result) == ("digits", "deploy", "passed")
    assert {row.stage: row.seconds for row in result.stages} == {"build": 2.0, "push": 1.0}
    assert [(row.size, row.created_by) for row in result.layers] == [(5, "weights")]


DAMAGED: list[Any] = [None, [], {}, "x", 1, [1, None, "x"], {"samples": 1, "layers": "x", "model": 3, "result": []}, "y" * 10**6]


@pytest.mark.parametrize("value", DAMAGED, ids=lambda value: str(value)[:20])
@pytest.mark.parametrize("bundle", [True, False])
def test_damaged_files_do_not_raise(value: Any, bundle: bool, tmp_path: Path) -> None:
    left(tmp_path, verdict=value, stages=value, image=value, push=value, diff=value, error=value)
    for name in ("release", "index", "stages"):
        (tmp_path / f"{name}.json").write_text(json.dumps(value))
    assert job_result.gather(tmp_path, bundle=bundle).result == "failed"


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_untrusted_text_survives_saving_and_loading(text: str, tmp_path: Path) -> None:
    error = {"stage": "check", "kind": "model_invalid", "message": text, "fix": text, "problems": []}
    result = job_result.gather(left(tmp_path / "m", verdict={**VERDICT, "model": text}, error=error), bundle=False)
    job_result.save(tmp_path / "r" / "torchrelay-result-x-build" / "x-build.json", result)
    read, bad = run_results.load(tmp_path / "r")
    assert (read, bad) == ([result.model_copy(update={"model": "x"})], [])
    assert result.model == (text.replace("\ud800", "\\ud800")[:4096] or "m")
    assert result.error is not None
    assert result.error.message == text.replace("\ud800", "\\ud800")[:65536]


@pytest.mark.parametrize(
    "content", ['{"kind": 3}', "[", "[]", "[" * 100_000, json.dumps({"kind": "x", "problems": [{"line": "one"}]})]
)
def test_an_unreadable_error_file_is_still_an_error(content: str, tmp_path: Path) -> None:
    left(tmp_path, verdict=VERDICT)
    assert job_result.gather(tmp_path, bundle=False).result == "passed"
    (tmp_path / ".torchrelay" / "error.json").write_text(content)
    assert job_result.gather(tmp_path, bundle=False).result == "failed"


# many


def result_of(model: str, **more: Any) -> JobResult:
    return JobResult(**{"model": model, "result": "passed", **more})


def test_a_merged_result_has_the_deploy_jobs_result_and_the_build_jobs_facts() -> None:
    build = result_of(
        "a", samples=[{"name": "s", "passed": True}], stages=[StageRow(stage="build", seconds=5.0)], diff={"reachable": True}
    )
    deploy = result_of("a", job="deploy", result="rolled_back", endpoint="http://x", stages=[StageRow(stage="deploy", seconds=1.0)])
    for order in ([build, deploy], [deploy, build]):
        result = run_results.merged(order)["a"]
        assert (result.result, result.endpoint, result.job) == ("rolled_back", "http://x", "deploy")
        assert [row.stage for row in result.stages] == ["build", "deploy"]
        assert result.samples
        assert result.diff is not None


def test_a_model_that_failed_in_one_job_failed() -> None:
    error = Failure(stage="verify", kind="gate_failed")
    result = run_results.merged([result_of("a", result="gate_failed", error=error), result_of("a", job="deploy")])["a"]
    assert (result.result, result.error) == ("gate_failed", error)


def needs(plan: list[str], **jobs: str) -> Any:
    matrix = json.dumps({"include": [{"model": name, "dir": name} for name in plan]})
    return {
        "plan": {"result": "success", "outputs": {"matrix": matrix}},
        **{name: {"result": content} for name, content in jobs.items()},
    }


def test_every_planned_model_has_a_result() -> None:
    results = run_results.completed({"a": result_of("a")}, needs(["a", "b"], build="failure", deploy="skipped"))
    assert {name: one.result for name, one in results.items()} == {"a": "passed", "b": "failed"}
    assert run_results.worst(results.values()) == "failed"


def test_control_without_needs_a_missing_model_is_not_noticed() -> None:
    assert run_results.worst(run_results.completed({"a": result_of("a")}, {}).values()) == "passed"


def test_a_cancelled_deploy_job_is_a_failure() -> None:
    results = run_results.completed(
        {"a": result_of("a"), "b": result_of("b", job="deploy")}, needs(["a", "b"], build="success", deploy="cancelled")
    )
    assert {name: one.result for name, one in results.items()} == {"a": "failed", "b": "passed"}


def test_a_failed_job_that_no_model_explains_has_its_own_row() -> None:
    assert set(run_results.completed({}, {"plan": {"result": "failure", "outputs": {}}})) == {"(plan)"}
    results = run_results.completed({"a": result_of("a", job="deploy")}, needs(["a"], build="success", deploy="failure"))
    assert {name: one.result for name, one in results.items()} == {"(deploy)": "failed", "a": "passed"}


def test_successful_and_skipped_jobs_add_nothing() -> None:
    assert set(run_results.completed({"a": result_of("a")}, needs(["a", "b"], build="success", deploy="skipped"))) == {"a"}


@pytest.mark.parametrize(
    "odd", [None, [], "x", {"plan": 1}, {"plan": {"outputs": {"matrix": "{"}}}, {"plan": {"outputs": {"matrix": 3}}}]
)
def test_malformed_needs_do_not_raise(odd: Any) -> None:
    assert run_results.completed({"a": result_of("a")}, odd) == {"a": result_of("a")}
    extra = {**odd, "build": {"result": "failure"}} if isinstance(odd, dict) else {"build": {"result": "failure"}}
    assert run_results.worst(run_results.completed({"a": result_of("a")}, extra).values()) == "failed"


def test_an_invalid_result_file_is_a_failure(tmp_path: Path) -> None:
    texts = [
        "",
        "[",
        "[]",
        '{"result": "fine"}',
        '{"result": "passed", "model": 3}',
        "[" * 100_000,
        '{"result":"passed","stages":[{"seconds":NaN}]}',
    ]
    for number, text in enumerate(texts):
        (tmp_path / f"{number}-build.json").write_text(text)
    (tmp_path / "link-build.json").symlink_to("/etc/hostname")
    big = tmp_path / "big-build.json"
    with big.open("wb") as file:
        file.truncate(run_results.MAX_FILE + 1)
    results, bad = run_results.load(tmp_path)
    assert results == []
    assert len(bad) == len(texts) + 2
    assert {one.result for one in run_results.unreadable(bad)} == {"failed"}


PLAN = ["a", "b", "a-b"]
PLACES = [  # where a result lies, whose it says it is, and whether it is taken
    ("torchrelay-result-a-build/a-build.json", "a", "build", "skipped", True),
    ("torchrelay-result-production-a-build/a-build.json", "a", "build", "success", True),
    ("torchrelay-result-a-deploy/a-deploy.json", "a", "deploy", "success", True),
    ("torchrelay-result-a-b-build/a-b-build.json", "a-b", "build", "success", True),
    ("torchrelay-result-a-build/a-build.json", "folder", "build", "success", True),  # model.yaml could not be read
    ("a-build.json", "a", "build", "skipped", True),
    ("torchrelay-result-a-build/a-deploy.json", "a", "deploy", "success", False),
    ("torchrelay-result-a-build/b-deploy.json", "b", "deploy", "success", False),
    ("torchrelay-result-a-build/b-build.json", "b", "build", "success", False),
    ("torchrelay-result-a-build/a-build.json", "a", "deploy", "success", False),
    ("torchrelay-result-a-b-build/b-build.json", "b", "build", "success", False),
    ("torchrelay-result-a-deploy/a-deploy.json", "a", "deploy", "skipped", False),
    ("torchrelay-result-a-build/x/torchrelay-result-b-deploy/b-deploy.json", "b", "deploy", "success", False),
    ("torchrelay-result-a-build/a.json", "a", "build", "success", False),
    ("other-a-build/a-build.json", "a", "build", "success", False),
    ("a-deploy.json", "a", "deploy", "success", False),  # one artifact alone: of a build job
    ("a-build.json", "b", "build", "success", False),
]


@pytest.mark.parametrize(("place", "model", "job", "deployed", "valid"), PLACES)
def test_model_and_job_come_from_the_place(place: str, model: str, job: Any, deployed: str, valid: bool, tmp_path: Path) -> None:
    job_result.save(
        tmp_path / place, result_of(model, job=job, endpoint="http://x", reference="r/x@1", target="docker", previous="p")
    )
    results, bad = run_results.load(tmp_path, needs(PLAN, build="success", deploy=deployed))
    assert bad == ([] if valid else [place])
    for one in results:
        assert (one.model, one.job) == (Path(place).stem.removesuffix(f"-{job}"), job)
        assert one.endpoint == ("http://x" if job == "deploy" else "")


def test_outside_a_workflow_a_flat_folder_may_have_deploy_results(tmp_path: Path) -> None:
    for job in ("build", "deploy"):
        job_result.save(tmp_path / f"a-{job}.json", result_of("a", job=job, endpoint=f"http://{job}"))
    results, bad = run_results.load(tmp_path)
    assert (run_results.merged(results)["a"].endpoint, bad) == ("http://deploy", [])


def test_a_missing_folder_has_no_results(tmp_path: Path) -> None:
    assert run_results.load(tmp_path / "none") == ([], [])


def test_results_are_ordered_from_best_to_worst() -> None:
    order = ["passed", "gate_failed", "failed", "rolled_back", "rollback_failed"]
    assert list(job_result.RESULT_KINDS) == order
    assert run_results.worst([result_of("a", result=one) for one in order]) == "rollback_failed"
    assert run_results.worst([]) == ""
