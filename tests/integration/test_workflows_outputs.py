"""Each action's own step, run as a runner does: its `run` line in bash, its `env` from the inputs; each declared output is written.

build, verify and deploy want Docker: the runs under act read theirs.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.bundles import proved
from tests.integration.conftest import free_port
from tests.integration.test_diff import ANSWERS
from tests.unit.workflow_files import Tree
from torchrelay.core.workspace import Workspace
from torchrelay.verification import kept_answers
from torchrelay.verification.prober import ProbeAnswer

ROOT = Path(__file__).resolve().parents[2]
TREE = Tree.of()
WANT_DOCKER = {"build", "verify", "deploy"}
NOT_VERBS = {"setup", "__cache", "__keyless"}


class Job:
    """One job: a workspace, a folder with the command, the runner's files."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.workspace = folder, folder / "workspace"
        (folder / "bin").mkdir()
        launcher = folder / "bin/torchrelay"
        launcher.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m torchrelay "$@"\n')
        launcher.chmod(0o755)

    def uses(self, action: str, **given: str) -> dict[str, str]:
        """Run the action's step of its own verb; returns the outputs of that step."""
        declared = TREE.actions[action].data["inputs"]
        inputs = {name: said.get("default", "") for name, said in declared.items()}
        for name, value in given.items():
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
    """Read a runner's file: NAME<<DELIMITER, lines, DELIMITER; or NAME=VALUE."""
    found, lines = {}, iter(text.splitlines())
    for line in lines:
        name, mark, delimiter = line.partition("<<")
        if mark:
            value = []
            for inner in lines:
                if inner == delimiter:
                    break
                value.append(inner)
            found[name] = "\n".join(value)
        else:
            name, _, found_value = line.partition("=")
            found[name] = found_value
    return found


def declared(action: str) -> set[str]:
    """The outputs that the action takes from the step of its verb."""
    said = TREE.actions[action].data.get("outputs", {})
    return {name for name, one in said.items() if f"steps.{action}.outputs." in one["value"]}


def unwritten(ran: dict[str, dict[str, str]]) -> list[str]:
    """Declared outputs that a run did not write."""
    return [f"{action}: {name}" for action, found in ran.items() for name in declared(action) - set(found)]


@pytest.fixture
def job(tmp_path: Path) -> Job:
    made = Job(tmp_path)
    shutil.copytree(ROOT / "examples/tabular", made.workspace, ignore=shutil.ignore_patterns(".torchrelay"))
    return made


def git(folder: Path) -> None:
    for arguments in (
        ["init", "--quiet"],
        ["add", "--all"],
        ["-c", "user.name=T", "-c", "user.email=t@example.com", "commit", "-qm", "x"],
    ):
        subprocess.run(["git", *arguments], cwd=folder, check=True)


def test_outputs_without_docker(job: Job) -> None:
    git(job.workspace)
    ran = {
        "plan": job.uses("plan", inputs='{"target": "docker"}'),
        "check": job.uses("check"),
        "fetch": job.uses("fetch"),
        "archive": job.uses("archive"),
        "login": job.uses("login"),
    }
    assert unwritten(ran) == []
    assert ran["plan"]["matrix"] == '{"include":[{"model":"tabular","dir":".","fetch":false}]}'
    assert ran["plan"]["build"] == "true"
    assert ran["check"]["model"] == "tabular"
    assert ran["fetch"]["sha256"] == (job.workspace / "weights.lock").read_text().split("sha256")[1].strip('": \n},')[:64]
    assert (job.workspace / ran["archive"]["path"]).is_file()


def test_outputs_of_what_was_proved(tmp_path: Path, registry_host: str) -> None:
    job = Job(tmp_path)
    image = proved(job.workspace)
    key = tmp_path / "key.pem"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", str(key)], check=True, capture_output=True)
    bundle, results = str(tmp_path / "bundle"), str(tmp_path / "results")
    came = {name: ProbeAnswer(name, status, "", body, 1.0, None) for name, (status, body) in ANSWERS.items()}
    kept_answers.save(Workspace(job.workspace), image.config_digest, came)
    ran = {"diff": job.uses("diff", live_url=f"http://127.0.0.1:{free_port()}"), "bundle": job.uses("bundle", output=bundle)}
    shutil.rmtree(job.workspace)
    job.workspace.mkdir()  # from here on there is no model, only what was handed over
    ran["push"] = job.uses("push", bundle=bundle, repository=f"{registry_host}/outputs/")
    ran["attest"] = job.uses("attest", bundle=bundle, signing_key=f"@{key}")
    ran["summary"] = job.uses("summary", bundle=bundle, output=f"{results}/digits-deploy.json")
    ran["report"] = job.uses("report", results=results)
    assert unwritten(ran) == []
    assert (ran["diff"]["reachable"], bool(ran["diff"]["reason"])) == ("false", True), "nobody listens there"
    assert ran["bundle"]["image"] == ran["push"]["digest"] == image.digest
    assert ran["push"]["reference"] == f"{ran['push']['repository']}@{image.digest}"
    assert ran["attest"]["public-key"].startswith("-----BEGIN PUBLIC KEY-----\n")
    assert ran["report"]["image"] == ran["push"]["reference"]


def test_the_rest_wants_docker_or_is_tested_elsewhere() -> None:
    here = {"plan", "check", "fetch", "archive", "login", "diff", "bundle", "push", "attest", "summary", "report"}
    elsewhere = {"doctor"}  # tests/integration/test_doctor.py starts what it looks at
    assert set(TREE.actions) - here - elsewhere - WANT_DOCKER == NOT_VERBS
