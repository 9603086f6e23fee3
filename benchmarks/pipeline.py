"""Measures the time from a push to an answered prediction: serve.yml under act, with Docker and a registry on loopback.

act runs in host mode. Each push changes the model's answers and its sample. The clock runs from act's start to the first new
answer. The run's results say how long the stages took; the rest is overhead: act, setup of the command in each job, the hand-over
between jobs, and the stages' starts. The overhead is slightly underestimated: deploy ends after the first new answer, when the old
version has drained. The plan of fifty models, one of them changed, is timed separately. The runtime image and the command's
environment are prepared beforehand, as on any machine that has run this once.

`python -m benchmarks.pipeline` from the top of the repository.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import docker
import requests
from rich.console import Console
from rich.table import Table

from benchmarks.push_path import free_port, registry
from tests.container.relay.runs import removed_afterwards
from tests.workflow.act import Act, Running
from tests.workflow.conftest import make_act, step_environment
from tests.workflow.repositories import ModelRepository, export
from tests.workflow.services import github_api
from tests.workflow.test_monorepo import fifty
from torchrelay.core.progress import Quiet
from torchrelay.image.runtime import RuntimeSettings, ensure_runtime

SETOSA = [5.1, 3.5, 1.4, 0.2]
ANSWERS = {"1.0": (0.9944, 0.0056), "0.5": (0.9301, 0.0699)}  # factor of the logits -> the first two probabilities
BUILD = ("check", "fetch", "archive", "build", "verify", "bundle")
ROLLOUT = ("push", "attest", "deploy")
ASK_S = 0.02


def commit_version(repository: ModelRepository, sure: str) -> None:
    """Commit a version with this factor, and a sample that expects it."""
    folder = repository.folder
    text = (folder / "model.py").read_text().split("torch.nn.functional.softmax(")
    repository.write("model.py", f"{text[0]}torch.nn.functional.softmax(self.fc(x) * {sure}, dim=-1){text[1].split('dim=-1)')[1]}")
    expect = {"json": [*ANSWERS[sure], 0.0], "compare": "numeric", "atol": 0.001}
    repository.write("samples/setosa.json", json.dumps({"request": {"json": SETOSA}, "expect": expect}))
    repository.commit(f"as sure as {sure}")


def first_answer(url: str, expected: float, running: Running) -> float:
    """Return the seconds from act's start to the first answer of the new version."""
    while not running.ended:
        try:
            answer = requests.post(url, json=SETOSA, timeout=10)
            if answer.status_code == 200 and abs(answer.json()[0] - expected) < 0.01:
                return time.monotonic() - running.began
        except requests.RequestException:
            pass
        time.sleep(ASK_S)
    sys.exit(running.seen(-1).transcript)


def push(act: Act, repository: ModelRepository, name: str, url: str, sure: str) -> dict[str, float]:
    """Push once; return the seconds to the answer, to the end of the run, and in its stages."""
    before = repository.head
    commit_version(repository, sure)
    running = act.start(repository.folder, "push", repository.pushed(before))
    answered = first_answer(url, ANSWERS[sure][0], running)
    run = running.finish()
    if run.code:
        sys.exit(run.transcript)
    results = [file for job in ("build", "deploy") for file in act.artifacts(running).rglob(f"{name}-{job}.json")]
    rows = [row for file in results for row in json.loads(file.read_text())["stages"]]
    seconds = {row["stage"]: float(row["seconds"]) for row in rows}
    if not {"verify", "deploy"} <= set(seconds):
        sys.exit(f"the results of the run lack the times of its stages: {results}")
    act.forget(running)
    build, rollout = (sum(seconds.get(stage, 0.0) for stage in stages) for stages in (BUILD, ROLLOUT))
    jobs = {f"job {job.id}": job.seconds for job in run.jobs}
    overhead = answered - build - rollout
    return {
        "push to answer": answered,
        "build stages": build,
        "rollout stages": rollout,
        "overhead": overhead,
        "run": run.seconds,
    } | jobs


def plan(act: Act, repository: ModelRepository, number: int) -> float:
    """Return the seconds of the plan job when one model of fifty changed; the jobs after it are ended."""
    before = repository.head
    repository.write(f"models/m{number}/README.md", f"changed {before}")
    repository.commit("change one")
    running = act.start(repository.folder, "push", repository.pushed(before))
    ended = running.wait_for("the plan's end", lambda event: event.get("jobID") == "plan" and "jobResult" in event)
    begun = next(event for event in running.events if event.get("jobID") == "plan")
    run = running.kill()
    act.forget(running)
    if ended["jobResult"] != "success" or run.outputs("plan")["count"] != "1":
        sys.exit(run.transcript)
    return float(ended["at"] - begun["at"])


@contextmanager
def scene(folder: Path, host: str) -> Iterator[tuple[ModelRepository, str, str]]:
    name, port = f"bench-{secrets.token_hex(3)}", free_port()
    with removed_afterwards(docker.from_env(), name):
        repository = ModelRepository(folder / "models", {"repository": f"{host}/models/", "target": "docker"})
        repository.add_model(name, port)
        repository.commit("a model")
        yield repository, name, f"http://127.0.0.1:{port}/predictions/{name}"


def measured(folder: Path, count: int) -> dict[str, list[float]]:
    """Return every figure of every run."""
    figures: dict[str, list[float]] = {}
    with github_api() as comments, registry(folder) as host, scene(folder, host) as (repository, name, url):
        act = make_act(export(folder / "deploy"), folder / "runs", step_environment(folder, comments.url))
        try:
            for number in range(count + 1):  # the first is not counted: it pushes the runtime into the registry
                row = push(act, repository, name, url, list(ANSWERS)[(number + 1) % 2])
                for key, value in row.items() if number else ():
                    figures.setdefault(key, []).append(value)
            many, _ = fifty(folder / "fifty")
            figures["plan of 50 models"] = [plan(act, many, number) for number in range(count)]
        finally:
            act.end_all()
    return figures


def summarise(figures: dict[str, list[float]]) -> None:
    table = Table(title=f"serve.yml under act, host mode, {os.cpu_count()} CPUs, seconds")
    for column in ("", "N", "median", "least", "most"):
        table.add_column(column, justify="left" if not column else "right")
    for name, values in figures.items():
        shown = (statistics.median(values), min(values), max(values))
        table.add_row(name, str(len(values)), *(f"{value:.1f}" for value in shown))
    Console(width=100).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=5, help="number of pushes and plans that are counted")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    ensure_runtime(RuntimeSettings.from_environment("cpu"), Quiet())
    with tempfile.TemporaryDirectory(dir=os.environ.get("TORCHRELAY_BENCH_DIR")) as scratch:
        figures = measured(Path(scratch), options.count)
    summarise(figures)
    if options.json:
        report: dict[str, Any] = {"cpus": os.cpu_count(), "seconds": figures}
        options.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
