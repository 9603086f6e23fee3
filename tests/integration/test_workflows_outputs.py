"""Runs each action's step as a runner does (its `run` line in bash, its `env` from the inputs) and checks the outputs.

build, verify and deploy need Docker: the first two are compared by their results here, and all three in the runs under act.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.bundles import verdict_on, verified_model
from tests.integration.conftest import free_port
from tests.integration.test_diff import ANSWERS
from tests.unit.verb_outputs import OUTPUTS
from tests.unit.workflow_files import Tree
from torchrelay.core import runner
from torchrelay.core.workspace import Workspace
from torchrelay.stages import verify
from torchrelay.stages.build import Built
from torchrelay.verification import kept_answers
from torchrelay.verification.prober import ProbeAnswer

ROOT = Path(__file__).resolve().parents[2]
TREE = Tree.of()


class Job:
    """One job: a workspace, a folder with the command, and the runner's files."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.workspace = folder, folder / "workspace"
        (folder / "bin").mkdir()
        launcher = folder / "bin/torchrelay"
        launcher.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m torchrelay "$@"\n')
        launcher.chmod(0o755)

    def uses(self, action: str, **values: str) -> dict[str, str]:
        """Run the step of the action that runs its verb; return the outputs of that step."""
        declared = TREE.actions[action].data["inputs"]
        inputs = {name: declaration.get("default", "") for name, declaration in declared.items()}
        for name, value in values.items():
            assert name.replace("_", "-") in declared
            inputs[name.replace("_", "-")] = value
        step = next(step for _, step in TREE.actions[action].steps() if step.get("id") == action)
        env = {
            name: re.sub(r"\$\{\{ inputs\.([\w-]+) \}\}", lambda of: inputs[of[1]], value) for name, value in step["env"].items()
        }
        output = self.folder / f"{action}.output"
        environment = {name: value for name, value in os.environ.items() if not name.startswith("GITHUB_")} | env
        environment |= {
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT / "scripts"),
            "RUNNER_TEMP": str(self.folder),
            "GITHUB_ACTIONS": "true",
            "GITHUB_OUTPUT": str(output),
            "GITHUB_ENV": str(self.folder / "env"),
            "GITHUB_STEP_SUMMARY": str(self.folder / "summary.md"),
        }
        output.touch()
        done = subprocess.run(
            ["bash", "-e", "-o", "pipefail", "-c", step["run"]],
            cwd=self.workspace,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return outputs(output.read_text())


def outputs(text: str) -> dict[str, str]:
    """Parse a runner's file: NAME<<DELIMITER, lines, DELIMITER; or NAME=VALUE."""
    values, lines = {}, iter(text.splitlines())
    for line in lines:
        name, mark, delimiter = line.partition("<<")
        if mark:
            value_lines = []
            for inner in lines:
                if inner == delimiter:
                    break
                value_lines.append(inner)
            values[name] = "\n".join(value_lines)
        else:
            name, _, value = line.partition("=")
            values[name] = value
    return values


def differing(runs: dict[str, dict[str, str]]) -> dict[str, set[str]]:
    """Return, for each run that wrote other outputs than the table says, those that are missing or too many."""
    return {verb: set(values) ^ OUTPUTS[verb] for verb, values in runs.items() if set(values) != OUTPUTS[verb]}


@pytest.fixture
def job(tmp_path: Path) -> Job:
    job = Job(tmp_path)
    shutil.copytree(ROOT / "examples/tabular", job.workspace, ignore=shutil.ignore_patterns(".torchrelay"))
    return job


def git(folder: Path) -> None:
    for arguments in (
        ["init", "--quiet"],
        ["add", "--all"],
        ["-c", "user.name=T", "-c", "user.email=t@example.com", "commit", "-qm", "x"],
    ):
        subprocess.run(["git", *arguments], cwd=folder, check=True)


def test_outputs_without_docker(job: Job) -> None:
    git(job.workspace)
    runs = {
        "plan": job.uses("plan", inputs='{"target": "docker"}'),
        "check": job.uses("check"),
        "fetch": job.uses("fetch"),
        "archive": job.uses("archive"),
        "login": job.uses("login"),
        "doctor": job.uses("doctor", target="local"),
    }
    assert differing(runs) == {}
    assert runs["plan"]["matrix"] == '{"include":[{"model":"tabular","dir":".","fetch":false}]}'
    assert runs["plan"]["build"] == "true"
    assert runs["check"]["model"] == "tabular"
    assert runs["fetch"]["sha256"] == (job.workspace / "weights.lock").read_text().split("sha256")[1].strip('": \n},')[:64]
    assert (job.workspace / runs["archive"]["path"]).is_file()


def test_outputs_of_a_verified_model(tmp_path: Path, registry_host: str) -> None:
    job = Job(tmp_path)
    image = verified_model(job.workspace)
    key = tmp_path / "key.pem"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", str(key)], check=True, capture_output=True)
    bundle, results = str(tmp_path / "bundle"), str(tmp_path / "results")
    answers = {name: ProbeAnswer(name, status, "", body, 1.0, None) for name, (status, body) in ANSWERS.items()}
    kept_answers.save(Workspace(job.workspace), image.config_digest, answers)
    runs = {"diff": job.uses("diff", live_url=f"http://127.0.0.1:{free_port()}"), "bundle": job.uses("bundle", output=bundle)}
    shutil.rmtree(job.workspace)
    job.workspace.mkdir()  # from here on there is only the bundle, no model
    runs["push"] = job.uses("push", bundle=bundle, repository=f"{registry_host}/outputs/")
    public = tmp_path / "verify.pem"
    subprocess.run(["openssl", "pkey", "-in", str(key), "-pubout", "-out", str(public)], check=True, capture_output=True)
    runs["attest"] = job.uses("attest", bundle=bundle, signing_key=f"@{key}", verify_key=f"@{public}")
    runs["summary"] = job.uses("summary", bundle=bundle, output=f"{results}/digits-deploy.json")
    runs["report"] = job.uses("report", results=results)
    assert differing(runs) == {}
    assert (runs["diff"]["reachable"], bool(runs["diff"]["reason"])) == ("false", True), "nothing listens there"
    assert runs["bundle"]["image"] == runs["push"]["digest"] == image.digest
    assert runs["push"]["reference"] == f"{runs['push']['repository']}@{image.digest}"
    assert runs["attest"]["public-key"].startswith("-----BEGIN PUBLIC KEY-----\n")
    assert runs["report"]["image"] == runs["push"]["reference"]


@pytest.mark.parametrize("verb", ["build", "verify"])
def test_outputs_of_a_result(verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = verified_model(tmp_path / "model")
    result = Built(image, False).summary() if verb == "build" else verify.summary(verdict_on(tmp_path / "model", image))
    monkeypatch.setenv("GITHUB_OUTPUT", str(tmp_path / "output"))
    runner.outputs(result)
    assert differing({verb: outputs((tmp_path / "output").read_text())}) == {}


def test_control_a_missing_and_an_extra_output_are_reported() -> None:
    assert differing({"login": dict.fromkeys(OUTPUTS["login"], "")}) == {}
    assert differing({"login": {"aws": "", "expires": "", "registry": "", "other": ""}}) == {"login": {"kubeconfig", "other"}}
