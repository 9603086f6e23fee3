"""Deploys that fail first, are killed or run at once: the next one continues, and nothing is left over."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from typing import Any

import pytest

from tests.cluster.harness import ALL, Deployment, poll
from torchrelay.core.errors import GateFailed, Outdated, TorchrelayError
from torchrelay.targets import Release


def test_a_first_version_that_fails_behind_the_service_leaves_nothing(deployment: Deployment) -> None:
    with pytest.raises(GateFailed, match="something else"):
        deployment.apply("two", "right_only_as_candidate")
    poll("nothing left", lambda: deployment.names(*ALL) == [])


def killed_at(deployment: Deployment, release: Release, reached: Callable[[], Any]) -> None:
    """Deploy in a separate process and kill it once `reached` returns something."""
    process = multiprocessing.get_context("fork").Process(target=deployment.target().apply, args=(release,))
    process.start()
    try:
        poll("the moment to kill it", lambda: reached() or not process.is_alive())
        assert process.is_alive(), "it ended before"
    finally:
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()


def test_updated_killed_rolled_back_and_deleted(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    """With only the permissions of infra/kubernetes/deployer-role.yaml."""
    monkeypatch.setenv("TORCHRELAY_KUBECONFIG", deployment.kubeconfig_of("deployer", "infra/kubernetes/deployer-role.yaml"))
    one, two = deployment.images.release("one", sequence=1), deployment.images.release("two", sequence=2)
    deployment.target().apply(one)
    candidates = "app.kubernetes.io/component=candidate"

    killed_at(deployment, two, lambda: deployment.get("pods", "--selector", candidates)["items"])
    assert deployment.answer() == "one"
    killed_at(deployment, two, lambda: deployment.annotations()["state"] == "rolling")
    assert (deployment.annotations()["version"], deployment.annotations()["state"]) == ("two", "rolling")
    assert json.loads(deployment.annotations()["previous"])["version"] == "one"

    done = deployment.target().apply(two)
    assert (done.skipped, done.state, done.version, done.previous) == (False, "ready", "two", one.digest)
    assert deployment.answer() == "two"
    poll("the candidates' end", lambda: not deployment.get("pods", "--selector", candidates)["items"])

    back = deployment.target().rollback()
    assert (back.state, back.version, back.previous) == ("ready", "one", two.digest)
    assert deployment.answer() == "one"

    assert deployment.target().delete() is True
    assert deployment.names(*ALL) == []
    assert deployment.target().status().state == "absent"
    assert deployment.target().delete() is False


def test_of_two_at_once_the_newest_commit_is_live_at_the_end(deployment: Deployment) -> None:
    ends: dict[str, TorchrelayError | None] = {}

    def deploy(version: str, sequence: int) -> None:
        try:
            deployment.target().apply(deployment.images.release(version, sequence=sequence))
            ends[version] = None
        except TorchrelayError as error:
            ends[version] = error

    threads = [threading.Thread(target=deploy, args=one) for one in (("one", 1), ("two", 2))]
    deployment.images.release("two")  # pushed beforehand: the harness keeps no lock
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert ends["two"] is None
    assert ends["one"] is None or isinstance(ends["one"], Outdated)
    assert (deployment.answer(), deployment.annotations()["sequence"]) == ("two", "2")
