"""summary and report as steps of a runner: the command, its files and exit codes; only Torchrelay sends commands."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.github_server import GitHub, serving
from tests.runner_lines import HOSTILE, Runner, Taken, values
from tests.unit.model_dirs import GOOD_YAML, write
from torchrelay.core import errors
from torchrelay.core.errors import DeployFailed, GateFailed, Interrupted, ModelInvalid, RollbackFailed
from torchrelay.core.paths import ROOT
from torchrelay.workflow import job_result
from torchrelay.workflow.job_result import Failure, JobResult

TITLES = {"usage", "failed", *(one.kind for one in vars(errors).values() if hasattr(one, "kind"))}


class Step:
    """A step's environment: `run` starts the command as a runner does, and reads what it printed as a runner does."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files = {name: folder / name.lower() for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY", "GITHUB_ENV")}
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "PYTHONPATH": str(ROOT / "scripts"),
            "GITHUB_ACTIONS": "true",
            "GITHUB_WORKSPACE": str(folder),
            "GITHUB_SERVER_URL": "https://github.example",
            "GITHUB_REPOSITORY": "org/models",
            "GITHUB_RUN_ID": "99",
            "GITHUB_RUN_NUMBER": "12",
            "GITHUB_SHA": "abcdef0123456789",
            **{name: str(path) for name, path in self.files.items()},
        }
        self.taken: list[Taken] = []

    def run(self, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        for path in self.files.values():
            path.unlink(missing_ok=True)
        done = subprocess.run(
            [sys.executable, *(arguments if arguments[0] == "-c" else ["-m", "torchrelay", *arguments])],
            env=self.environment | environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            errors="surrogateescape",
            timeout=60,
            check=False,
        )
        # The runner reads the two pipes in any order, so the test covers both.
        orders = [Runner().read(text) for text in (done.stdout + done.stderr, done.stderr + done.stdout)]
        assert orders[0].taken == orders[1].taken
        assert not any(order.stopped for order in orders)
        self.taken = orders[0].taken
        return done

    def outputs(self) -> dict[str, str]:
        return values(self.files["GITHUB_OUTPUT"].read_text())


@pytest.fixture
def step(tmp_path: Path) -> Step:
    return Step(tmp_path)


@pytest.fixture
def hub() -> Iterator[GitHub]:
    with serving() as server:
        yield server


def put(folder: Path, name: str, **facts: Any) -> None:
    result = JobResult(**({"model": name, "version": "v1", "result": "passed"} | facts))
    job_result.save(folder / f"torchrelay-result-{name}-{result.job}" / f"{name}-{result.job}.json", result)


def failed(kind: str, message: str = "no") -> Failure:
    return Failure(stage="verify", kind=kind, message=message)


def test_a_mistake_is_an_annotation_a_summary_and_a_result(step: Step) -> None:
    model = step.folder / "models" / "digits"
    write(model, {"model.yaml": GOOD_YAML.replace("name:", "nome:")})
    done = step.run("check", "models/digits")
    assert done.returncode == ModelInvalid.exit_code
    assert {one.name for one in step.taken} == {"error"}
    assert {one.properties["file"] for one in step.taken} == {"models/digits/model.yaml"}
    assert step.taken[0].properties["line"].isdecimal()
    assert "model.yaml:" in done.stderr
    done = step.run("summary", "models/digits", "--output", "out/result.json")
    assert (done.returncode, step.taken) == (0, [])
    text = step.files["GITHUB_STEP_SUMMARY"].read_text()
    assert "**`check` failed: `model_invalid`**" in text
    assert "| `model.yaml:1` |" in text
    result = json.loads((step.folder / "out" / "result.json").read_text())
    assert (result["result"], result["error"]["kind"], result["model"]) == ("failed", "model_invalid", "digits")
    assert step.outputs()["result"] == "failed"
    (model / "model.yaml").write_text(GOOD_YAML)
    assert step.run("check", "models/digits").returncode == 0
    assert not (model / ".torchrelay" / "error.json").exists()


SAYING = """
import json, sys
from pathlib import Path
from torchrelay.cli import main
from torchrelay.core import runner
runner.shield()
for number, text in enumerate(json.loads(Path("texts.json").read_text())):
    model, results = f"m{number}", f"r{number}"
    for arguments in (
        ["check", model],
        ["check", model, "--json"],
        ["summary", model, "--output", f"{results}/x-build.json", "--json"],
        ["summary", model, "--output", f"{results}/x-build.json"],
        ["report", "--results", results],
        ["report", "--results", results, "--json"],
        ["check", text.replace(chr(0), "")[:2000]],
        [f"--{text}"],
        [text],
        ["deploy", model, "--target", text, "--dry-run"],
        ["invoke", model, "--target", text],
    ):
        main.run(arguments)
raise RuntimeError("a bug: " + "\\n::error::pwned ##[error]pwned")
"""


def test_untrusted_text_never_becomes_a_command(step: Step) -> None:
    """Untrusted text of models and arguments, through every verb that prints it, with both pipes read in either order."""
    texts = list(HOSTILE.values())
    for number, text in enumerate(texts):
        model = write(step.folder / f"m{number}", {"model.yaml": f"{GOOD_YAML}notes: {json.dumps(text)}\n"})
        (model / ".torchrelay").mkdir()
        verdict = {"result": "gate_failed", "model": text, "version": text, "reason": text}
        (model / ".torchrelay" / "verdict.json").write_text(json.dumps(verdict))
    (step.folder / "texts.json").write_text(json.dumps(texts))
    done = step.run("-c", SAYING)
    assert "RuntimeError: a bug: " in done.stderr
    assert len(step.taken) > 3 * len(texts)
    assert {one.name for one in step.taken} == {"error"}
    assert {one.properties.get("title") for one in step.taken} <= TITLES
    assert not any(one.data.startswith("pwned") for one in step.taken)
    assert not step.files["GITHUB_ENV"].exists()


def test_a_run_is_merged_into_outputs_summary_and_exit_code(step: Step) -> None:
    results = step.folder / "results"
    put(results, "digits", endpoint="http://digits", reference="r/digits@sha256:1", job="deploy")
    put(results, "tabular", endpoint="http://tabular")
    done = step.run("report", "--results", "results")
    assert (done.returncode, step.taken) == (0, [])
    text = step.outputs()
    assert (text["endpoint"], text["image"], text["verdict"]) == ("http://digits", "r/digits@sha256:1", "passed")
    assert set(json.loads(text["results"])) == {"digits", "tabular"}
    summary = step.files["GITHUB_STEP_SUMMARY"].read_text()
    assert "### ✅ Torchrelay: 2 models, 0 failed" in summary
    assert "[run 12](https://github.example/org/models/actions/runs/99) of `abcdef012345`" in summary


@pytest.mark.parametrize(
    ("facts", "code"),
    [
        ({"result": "gate_failed", "error": failed("gate_failed")}, GateFailed.exit_code),
        ({"result": "rollback_failed", "error": failed("rollback_failed")}, RollbackFailed.exit_code),
        ({"result": "failed", "error": failed("model_invalid")}, ModelInvalid.exit_code),
        ({"result": "failed", "error": failed("interrupted")}, DeployFailed.exit_code),
        ({"result": "failed", "error": failed("::error::x\n")}, DeployFailed.exit_code),
        ({"result": "gate_failed"}, GateFailed.exit_code),
    ],
)
def test_a_failed_model_fails_the_run(facts: dict[str, Any], code: int, step: Step) -> None:
    put(step.folder / "results", "good")
    put(step.folder / "results", "bad", **facts)
    done = step.run("report", "--results", "results", "--json")
    assert done.returncode == code
    assert json.loads(done.stdout)["verdict"] == facts["result"]
    assert step.outputs()["verdict"] == facts["result"]
    assert [one.name for one in step.taken] == ["error"]
    assert "bad" in step.taken[0].data


def test_a_job_without_a_result_fails_the_run(step: Step) -> None:
    put(step.folder / "results", "a")
    assert step.run("report", "--results", "results").returncode == 0
    matrix = json.dumps({"include": [{"model": "a", "dir": "a"}, {"model": "b", "dir": "b"}]})
    needs = {"plan": {"result": "success", "outputs": {"matrix": matrix}}, "build": {"result": "failure", "outputs": {}}}
    done = step.run("report", "--results", "results", TORCHRELAY_NEEDS=json.dumps(needs))
    assert done.returncode == DeployFailed.exit_code
    assert json.loads(step.outputs()["results"])["b"]["result"] == "failed"
    assert step.run("report", "--results", "results", "--needs", "[").returncode != 0


def test_a_run_without_models_passes(step: Step) -> None:
    assert step.run("report", "--results", "none").returncode == 0
    assert step.outputs() == {"endpoint": "", "image": "", "verdict": "", "results": "{}", "comment": ""}


def test_the_comment_is_written_once_and_updated(step: Step, hub: GitHub) -> None:
    put(step.folder / "results", "digits")
    (step.folder / "event.json").write_text(json.dumps({"pull_request": {"number": 7}}))
    environment = {
        "TORCHRELAY_COMMENT": "true",
        "GITHUB_TOKEN": hub.token,
        "GITHUB_API_URL": hub.url,
        "GITHUB_EVENT_PATH": str(step.folder / "event.json"),
    }
    done = step.run("report", "--results", "results", **environment)
    assert done.returncode == 0
    assert step.outputs()["comment"] == f"{hub.url}/c/0"
    put(step.folder / "results", "digits", result="gate_failed", error=failed("gate_failed"))
    assert step.run("report", "--results", "results", **environment).returncode == GateFailed.exit_code
    assert len(hub.comments) == 1
    assert "### ❌ `digits` `v1`: gate_failed" in hub.comments[0]["body"]
    assert [one for one in step.taken if one.name == "add-mask"] == [Taken("add-mask", {}, hub.token)]


@pytest.mark.parametrize(("status", "level"), [(403, "notice"), (404, "notice"), (401, "warning")])
def test_a_forbidden_comment_is_not_a_failure(status: int, level: str, step: Step, hub: GitHub) -> None:
    put(step.folder / "results", "digits")
    (step.folder / "event.json").write_text(json.dumps({"pull_request": {"number": 7}}))
    hub.next = [(status, {}, {"message": "Resource not accessible by integration"})]
    done = step.run(
        "report",
        "--results",
        "results",
        "--comment",
        GITHUB_TOKEN=hub.token,
        GITHUB_API_URL=hub.url,
        GITHUB_EVENT_PATH=str(step.folder / "event.json"),
    )
    assert done.returncode == 0
    assert [one.name for one in step.taken] == ["add-mask", level]
    assert hub.token not in (done.stdout + done.stderr).replace(f"::add-mask::{hub.token}", "")


def test_without_the_option_there_is_no_comment(step: Step, hub: GitHub) -> None:
    put(step.folder / "results", "digits")
    (step.folder / "event.json").write_text(json.dumps({"pull_request": {"number": 7}}))
    for asked in ("", "false"):
        step.run(
            "report",
            "--results",
            "results",
            TORCHRELAY_COMMENT=asked,
            GITHUB_TOKEN=hub.token,
            GITHUB_API_URL=hub.url,
            GITHUB_EVENT_PATH=str(step.folder / "event.json"),
        )
    assert hub.asked == []


def test_off_github_the_summary_is_printed(step: Step) -> None:
    put(step.folder / "results", "digits")
    done = step.run("report", "--results", "results", GITHUB_ACTIONS="", GITHUB_STEP_SUMMARY="", GITHUB_OUTPUT="")
    assert done.returncode == 0
    assert done.stdout.startswith("### ✅ `digits` `v1`: passed\n")
    assert "::" not in done.stderr


def test_the_step_summary_stays_within_its_limit(step: Step) -> None:
    put(
        step.folder / "results",
        "digits",
        samples=[{"name": f"s{n}", "passed": False, "differences": ["d" * 150] * 3} for n in range(100)],
    )
    program = (
        "import sys, pathlib; from torchrelay.cli import main\n"
        "pathlib.Path(sys.argv[1]).write_text('x' * 990_000)\n"
        "sys.exit(main.run(['report', '--results', 'results']))"
    )
    file = step.files["GITHUB_STEP_SUMMARY"]
    subprocess.run(
        [sys.executable, "-c", program, str(file)], env=step.environment, cwd=step.folder, check=True, capture_output=True
    )
    assert file.stat().st_size <= 1 << 20
    assert "more sections do not fit here" in file.read_text()


def test_commands_resume_after_a_reader_went_away(step: Step) -> None:
    put(step.folder / "results", "digits")
    with subprocess.Popen(
        [sys.executable, "-m", "torchrelay", "report", "--results", "results"],
        env=step.environment,
        cwd=step.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        text = process.stderr.read()
        assert process.wait(timeout=60) == 141
    assert "::stop-commands::" in text
    assert not Runner().read(text).stopped


def test_commands_resume_after_a_stopped_verb(step: Step, hub: GitHub) -> None:
    put(step.folder / "results", "digits")
    (step.folder / "event.json").write_text(json.dumps({"pull_request": {"number": 7}}))
    hub.next = [(500, {"retry-after": "60"}, {})]
    environment = step.environment | {
        "GITHUB_TOKEN": hub.token,
        "GITHUB_API_URL": hub.url,
        "GITHUB_EVENT_PATH": str(step.folder / "event.json"),
    }
    with subprocess.Popen(
        [sys.executable, "-m", "torchrelay", "report", "--results", "results", "--comment"],
        env=environment,
        cwd=step.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        guard = threading.Timer(30, process.kill)
        guard.start()
        assert process.stderr is not None
        lines = []
        for line in process.stderr:
            lines.append(line)
            if line.startswith("comment: "):
                process.send_signal(signal.SIGTERM)
        assert process.wait() == Interrupted.exit_code
        guard.cancel()
    reader = Runner().read("".join(lines))
    assert not reader.stopped
    assert [one.name for one in reader.taken] == ["add-mask", "error"]
