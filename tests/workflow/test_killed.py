"""SIGKILL at each step of the deploy job, then a new run: the live version answers throughout, and the new run completes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import requests

from tests.workflow.act import Act, Run, Running
from tests.workflow.conftest import Deployed, Live, Scene
from tests.workflow.replay import steps_of, without_build

REQUEST_S = 0.05


@contextmanager
def asked_all_along(live: Live) -> Iterator[list[str]]:
    """Send requests to the live endpoint all the time; the list contains the failures."""
    wrong: list[str] = []
    stop = threading.Event()

    def ask() -> None:
        while not stop.wait(REQUEST_S):
            try:
                answer = requests.post(live.url, json=[5.1, 3.5, 1.4, 0.2], timeout=20)
            except requests.RequestException as error:
                wrong.append(f"{time.monotonic():.1f} {error}")
                continue
            if answer.status_code != 200 or answer.json()[0] < 0.99:
                wrong.append(f"{time.monotonic():.1f} {answer.status_code} {answer.text[:200]}")

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield wrong
    finally:
        stop.set()
        thread.join()


def candidate_is_there(live: Live, before: set[str], running: Running) -> None:
    """Wait until deploy has created a container: then it would leave the most behind."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not running.ended:
        if set(live.containers) - before:
            return
        time.sleep(0.02)
    raise AssertionError(running.seen(-1).transcript)


def test_killed_at_each_step(
    start_act: Callable[..., Act], act: Act, deploy: Path, scene: Callable[..., Scene], tmp_path: Path
) -> None:
    repository, live = scene()
    first = act(repository.folder, "push", repository.pushed())
    assert first.code == 0, first.transcript
    before, since = live.serving["org.torchrelay.commit"], repository.head
    repository.edit("model.py", '"""One linear', '"""Still one linear')
    repository.commit("the next version")
    repository.call({"skip": "deploy"})
    built = act(repository.folder, "push", repository.pushed(since), run_id="77")
    assert built.code == 0, built.transcript
    repository.call()
    again = start_act(without_build(deploy, tmp_path / "deploy", built.outputs("plan") | {"deploy": "true", "attest": "true"}))

    def attempt(number: int) -> Running:
        return again.start(repository.folder, "push", repository.pushed(since), run_id="77", attempt=number)

    steps = steps_of(deploy, "deploy")
    assert len(steps) >= 7
    with asked_all_along(live) as wrong:
        for number, step in enumerate(steps, 2):
            containers = set(live.containers)
            running = attempt(number)
            running.step_begins("deploy", step)
            if "actions/deploy@" in step:
                candidate_is_there(live, containers, running)
            running.kill()
            served = live.serving["org.torchrelay.commit"] if len(live_containers(live)) == 1 else before
            if number <= 1 + steps.index(next(one for one in steps if "actions/deploy@" in one)):
                assert served == before, f"killed at {step}, and the new version serves"
        last = attempt(len(steps) + 2).finish()
    converged(last, live, repository.head)
    assert wrong == []


def live_containers(live: Live) -> list[str]:
    """Return the running versions, without the front."""
    return [name for name, (_, state) in live.containers.items() if state == "running" and not name.endswith("-front")]


def converged(run: Run, live: Live, commit: str) -> None:
    assert run.code == 0, run.transcript
    run.ran(plan="success", build="success", deploy="success", report="success")
    assert run.workflow_outputs["verdict"] == "passed"
    assert run.workflow_outputs["endpoint"] == live.url
    assert live.serving["org.torchrelay.commit"] == commit
    assert len(live_containers(live)) == 1
    assert len(live.containers) <= 3, "the front, what is live and what it replaced"


def test_a_killed_run_leaves_no_process(deployed: Deployed, act: Act) -> None:
    """The control: `kill` ends every process of a run; otherwise the killed runs of the tests above would go on."""
    from tests.workflow.act import marked

    running = act.start(deployed.repository.folder, "push", deployed.repository.pushed())
    running.step_begins("plan", "actions/setup@")
    assert marked(running.mark)
    running.kill()
    assert marked(running.mark) == []
