"""A front container alone: requests move from one version to the next and none is lost."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import docker
import pytest

from tests.container.harness import PYTHON, Container, Factory, persistent_connections, poll

STATE = "/tmp/torchrelay"  # noqa: S108 -- inside the container


@pytest.fixture
def network(client: docker.DockerClient) -> Iterator[str]:
    """A separate network: only there are containers reachable by name, and only by a chosen one."""
    network = client.networks.create("torchrelay-test-switch")
    yield str(network.name)
    for one in client.containers.list(filters={"network": str(network.name)}):
        network.disconnect(one, force=True)
    network.remove()


def switch(front: Container, upstream: str) -> tuple[int, str]:
    return front.exec(PYTHON, "-P", "-m", "torchrelay_runtime.front", "switch", upstream)


def version(front: Container) -> str | None:
    answer = front.predict()
    return str(answer.json["version"]) if answer.status == 200 else None


def test_switching_loses_no_request(container: Factory, network: str) -> None:
    old = container(network=network, name="torchrelay-test-old", serving={"environment": {"DECLARED": "old"}})
    new = container(network=network, name="torchrelay-test-new", serving={"environment": {"DECLARED": "new"}})
    front = container.start(container.runtime, ["front", "--upstream", "torchrelay-test-old:8080"], network=network)
    old.wait_ready()
    new.wait_ready()
    poll("the front's start", lambda: version(front) == "old" or None, 20)
    stop = threading.Event()
    seen: list[str | None] = []

    def ask() -> None:
        while not stop.is_set():
            seen.append(version(front))

    clients = [threading.Thread(target=ask) for _ in range(4)]
    for client in clients:
        client.start()
    poll("answers of the old version", lambda: len(seen) > 20 or None, 20)
    assert switch(front, "torchrelay-test-new:8080") == (0, "")
    after = len(seen) + len(clients)
    poll("answers of the new version", lambda: len(seen) > after + 20 or None, 20)
    old.raw.kill("SIGTERM")
    assert old.wait_exit(20) == 0
    count = len(seen)
    poll("answers after the old version's end", lambda: len(seen) > count + 20 or None, 20)
    stop.set()
    for client in clients:
        client.join()
    assert None not in seen
    assert set(seen[:20]) == {"old"}
    assert set(seen[after:]) == {"new"}

    code, output = switch(front, "no-such-host:8080")
    assert code == 1
    assert "no-such-host" in output
    assert version(front) == "new", "an impossible switch changes nothing"
    front.raw.kill("SIGTERM")
    assert front.wait_exit(20) == 0


def test_no_used_connection_is_closed_without_notice(container: Factory, network: str) -> None:
    old = container(network=network, name="torchrelay-test-old", serving={"environment": {"DECLARED": "old"}})
    new = container(network=network, name="torchrelay-test-new", serving={"environment": {"DECLARED": "new"}})
    front = container.start(container.runtime, ["front", "--upstream", "torchrelay-test-old:8080"], network=network)
    old.wait_ready()
    new.wait_ready()
    poll("the front's start", lambda: version(front) == "old" or None, 20)
    with persistent_connections(front) as failures:
        for upstream in ("new", "old", "new"):
            assert switch(front, f"torchrelay-test-{upstream}:8080") == (0, "")
    assert failures == []
    assert version(front) == "new"
    assert front.exec("test", "-e", f"{STATE}/closing")[0] == 1, "connections are kept again"
