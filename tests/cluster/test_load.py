"""Rollouts under load lose no request, over new and kept connections; without preStop they lose some."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.harness import Deployment, poll
from tests.container.harness import NAME, PREDICT, PYTHON

LOAD = Path(__file__).parent / "load.py"
STOP = "/tmp/stop"  # noqa: S108 -- in its pod
ROLLOUTS = 5
WITHOUT_DRAIN = 4
"""Rollouts within which the control must lose a request."""


def visitor_pod(image: str, address: str) -> dict[str, Any]:
    """A restricted pod that sends requests to the Service."""
    container = {
        "name": "visitors",
        "image": image,
        "command": [PYTHON, "-c", LOAD.read_text(), address, "80", PREDICT, STOP],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    security = {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}}
    spec = {"containers": [container], "restartPolicy": "Never", "securityContext": security, "enableServiceLinks": False}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "visitors"}, "spec": spec}


@contextmanager
def visitors(deployment: Deployment, image: str) -> Iterator[dict[str, Any]]:
    """Send requests from a pod while the block runs; afterwards the mapping contains the summary."""
    seen: dict[str, Any] = {}
    address = deployment.get("service", NAME)["spec"]["clusterIP"]
    deployment.kubectl("apply", "--filename", "-", stdin=json.dumps(visitor_pod(image, address)))
    try:
        poll("visitors", lambda: deployment.get("pod", "visitors")["status"]["phase"] == "Running")
        yield seen
        deployment.kubectl("exec", "visitors", "--", "touch", STOP)
        poll("the visitors' end", lambda: deployment.get("pod", "visitors")["status"]["phase"] == "Succeeded")
        seen.update(json.loads(deployment.kubectl("logs", "visitors")))
    finally:
        deployment.kubectl("delete", "pod", "visitors", "--wait=true", "--grace-period=1")


def rolled(deployment: Deployment) -> None:
    """Replace all pods by new ones of the same version, with the Deployment's current template."""
    deployment.kubectl("rollout", "restart", f"deployment/{NAME}")
    deployment.kubectl("rollout", "status", f"deployment/{NAME}", "--timeout=90s")
    poll("the old pods' end", lambda: len(deployment.get("pods", "--selector", "app.kubernetes.io/component=server")["items"]) == 1)


@pytest.mark.timeout(600)
def test_no_request_is_lost_in_rollouts_and_some_are_without_the_drain(deployment: Deployment) -> None:
    deployment.apply("one")
    image, _ = deployment.images.of("answers_as_told", "one")
    with visitors(deployment, image) as seen:
        for turn in range(ROLLOUTS):
            deployment.apply("two" if turn % 2 == 0 else "one")
    print(seen)
    assert {kind: summary["failed"] for kind, summary in seen.items()} == {"new": 0, "kept": 0}, seen
    for summary in seen.values():
        assert summary["asked"] > 100 * ROLLOUTS
        assert summary["versions"] == ["one", "two"]

    # The control: the same without preStop, so without draining.
    without = [{"op": "remove", "path": "/spec/template/spec/containers/0/lifecycle"}]
    deployment.kubectl("patch", "deployment", NAME, "--type=json", "--patch", json.dumps(without))
    deployment.kubectl("rollout", "status", f"deployment/{NAME}", "--timeout=90s")
    failed = 0
    for _ in range(WITHOUT_DRAIN):
        with visitors(deployment, image) as seen:
            rolled(deployment)
        print(seen)
        failed += sum(summary["failed"] for summary in seen.values())
        if failed:
            break
    assert failed, "no request was lost without preStop: the test above shows nothing"
