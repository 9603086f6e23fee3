"""The docker target on a real daemon: replaces versions without a lost request, survives failures, rolls back and deletes."""

from __future__ import annotations

import io
import json
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import docker
import pytest
import requests

from tests.container.harness import Factory
from torchrelay.core.errors import Busy, DeployFailed, GateFailed, PortTaken, RolledBack
from torchrelay.core.progress import Quiet
from torchrelay.model.model import Model
from torchrelay.model.samples import Expect, Sample
from torchrelay.targets import Context, Endpoint, Release, contract
from torchrelay.targets.docker import target as docker_target
from torchrelay.targets.docker.containers import Containers
from torchrelay.targets.docker.front import RUNTIME, Front, VersionContainer
from torchrelay.targets.docker.target import DockerTarget
from torchrelay.verification.prober import HttpProber, ProbeRequest, container_prober

NAME = "model"


def sample(**expected: Any) -> Sample:
    """A request that is echoed, and what must be in the answer."""
    expect = Expect(mode="subset", value={"echo": "hello", **expected})
    return Sample("hello", b'{"echo": "hello"}', "application/json", expect, None, "samples/hello.json", 1)


class Deployment:
    """A model directory, its target and versions of its image."""

    def __init__(self, factory: Factory, folder: Path) -> None:
        self.factory = factory
        self.dir = folder
        self.port = free_port()

    def target(self, **changes: Any) -> DockerTarget:
        described: dict[str, Any] = {"name": NAME, "weights": "model.pt", "handler": "handler.py", "timeouts": {"startup_s": 60}}
        described["targets"] = {"docker": {"port": self.port}}
        model = Model.model_validate(described | changes)
        return DockerTarget(Context(self.dir, model, Quiet(), self.dir / "cache"))

    def release(self, version: str, case: str = "answers_as_requested", expected: str = "") -> Release:
        tag = self.factory.image(case, {"version": version, "environment": {"DECLARED": version}}, "", "")
        digest = str(self.factory.client.images.get(tag).id)
        return Release(version, digest, (sample(version=expected or version),))

    def release_of_runtime(self, version: str, runtime: str) -> Release:
        """A version whose image has another runtime image."""
        tag = self.factory.image("answers_as_requested", {"version": version, "environment": {"DECLARED": version}}, "", "")
        relabelled = f"{tag}-{runtime}"
        self.factory.images.add(relabelled)
        described = io.BytesIO(f"FROM {tag}\nLABEL {RUNTIME}={runtime}\n".encode())
        self.factory.client.images.build(fileobj=described, tag=relabelled, rm=True)
        return Release(version, str(self.factory.client.images.get(relabelled).id), (sample(version=version),))

    def front_runtime(self) -> str:
        """The runtime of the one front's image."""
        (front,) = [name for name in self.containers() if "front" in name]
        return str(self.factory.client.containers.get(front).labels[RUNTIME])

    def apply(self, version: str, case: str = "answers_as_requested", expected: str = "") -> Endpoint:
        return self.target().apply(self.release(version, case, expected))

    def answer(self) -> Any:
        request = ProbeRequest("1", "POST", f"/predictions/{NAME}", "application/json", b'{"echo": "hello"}')
        answer = self.target().invoke(request)
        return json.loads(answer.body)["version"] if answer.status == 200 else answer.error or answer.status

    def containers(self) -> dict[str, str]:
        """Name -> state of all that the target made."""
        containers = self.factory.client.containers.list(
            all=True, filters={"label": f"org.torchrelay.name={NAME}"}, ignore_removed=True
        )
        return {str(one.name): str(one.status) for one in containers}

    def name(self, release: Release, **changes: Any) -> str:
        return Containers(self.factory.client, self.target(**changes).model).version_name(release.digest)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def deployment(client: docker.DockerClient, runtime: str, images: set[str], tmp_path: Path) -> Iterator[Deployment]:
    deployment = Deployment(Factory(client, runtime, "torchserve", images), tmp_path)
    deployment.target().delete()
    yield deployment
    for name in deployment.containers():
        print(f"--- {name}\n{client.containers.get(name).logs(tail=30).decode(errors='replace')}")
    deployment.target().delete()
    assert deployment.containers() == {}
    assert client.networks.list(names=[f"torchrelay-{NAME}"]) == []


@contextmanager
def visitors(port: int, count: int = 4, sleep_s: float = 0.02) -> Iterator[list[str]]:
    """Clients that send slow requests without a pause; yields a list of their answers."""
    seen: list[str] = []
    stop = threading.Event()

    def ask() -> None:
        with requests.Session() as session:
            while not stop.is_set():
                try:
                    request = {"echo": "x", "sleep": sleep_s}
                    answer = session.post(f"http://127.0.0.1:{port}/predictions/{NAME}", json=request, timeout=30)
                    seen.append(answer.json()["version"] if answer.ok else str(answer.status_code))
                except requests.RequestException as error:
                    seen.append(repr(error))

    threads = [threading.Thread(target=ask) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)


def test_a_version_is_replaced_without_a_lost_request_and_comes_back(deployment: Deployment) -> None:
    one = deployment.release("one")
    first = deployment.target().apply(one)
    url = f"http://127.0.0.1:{deployment.port}/predictions/{NAME}"
    assert first == Endpoint("docker", url, one.digest, "one", "ready")
    assert deployment.containers() == {f"torchrelay-{NAME}-front": "running", deployment.name(one): "running"}
    assert deployment.answer() == "one"

    begin = time.monotonic()
    assert deployment.target().apply(one) == replace(first, skipped=True)
    assert time.monotonic() - begin < 5
    assert deployment.target().plan(one).unchanged

    two = deployment.release("two")
    with visitors(deployment.port) as seen:
        second = deployment.target().apply(two)
    assert (second.version, second.previous, deployment.answer()) == ("two", one.digest, "two")
    assert set(seen) == {"one", "two"}
    assert seen.index("two") > 0
    assert deployment.containers() == {
        f"torchrelay-{NAME}-front": "running",
        deployment.name(one): "exited",
        deployment.name(two): "running",
    }

    with visitors(deployment.port, count=2, sleep_s=1.0) as seen:  # in flight for longer than the switch takes
        back = deployment.target().rollback()
    assert (back.version, back.previous, deployment.answer()) == ("one", two.digest, "one")
    assert set(seen) == {"one", "two"}


def test_only_the_front_is_published_and_every_container_is_hardened(deployment: Deployment, client: docker.DockerClient) -> None:
    release = deployment.release("one")
    deployment.target().apply(release)
    model = client.containers.get(deployment.name(release)).attrs
    front = client.containers.get(f"torchrelay-{NAME}-front").attrs
    assert model["HostConfig"]["PortBindings"] in ({}, None)
    assert front["HostConfig"]["PortBindings"] == {"8080/tcp": [{"HostIp": "127.0.0.1", "HostPort": str(deployment.port)}]}
    for attributes in (model, front):
        settings = attributes["HostConfig"]
        assert settings["ReadonlyRootfs"] is True
        assert settings["CapDrop"] == ["ALL"]
        assert settings["SecurityOpt"] == ["no-new-privileges"]
        assert settings["NetworkMode"] == f"torchrelay-{NAME}"
        assert attributes["Config"]["User"] == "1000:1000"
    assert (model["HostConfig"]["Memory"], model["HostConfig"]["NanoCpus"]) == (2 << 30, 10**9)
    assert model["Config"]["Labels"]["org.torchrelay.digest"] == release.digest
    assert model["Config"]["Labels"]["org.torchrelay.version"] == "one"


@pytest.mark.parametrize(
    ("case", "expected", "message"),
    [("fails_to_load", "", "does not load"), ("answers_as_requested", "other", "hello: ")],
)
def test_a_version_that_fails_gets_no_request_and_is_removed(
    deployment: Deployment, case: str, expected: str, message: str
) -> None:
    first = deployment.apply("one")
    before = deployment.containers()
    with visitors(deployment.port) as seen, pytest.raises(GateFailed, match=message):
        deployment.apply("two", case, expected)
    assert set(seen) == {"one"}
    assert deployment.containers() == before
    assert deployment.target().status() == first


def test_a_first_version_that_fails_leaves_nothing(deployment: Deployment) -> None:
    with pytest.raises(GateFailed):
        deployment.apply("one", expected="other")
    assert deployment.containers() == {}
    assert deployment.target().status().state == "absent"


def test_a_version_that_fails_behind_the_port_is_replaced_by_the_old_one(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = deployment.apply("one")
    before = deployment.containers()
    real = contract.verify_samples

    def verify_samples(prober: Any, model: Any, samples: Any, *rest: Any, **options: Any) -> None:
        """Expect an impossible answer through the port."""
        outside = isinstance(prober, HttpProber) and prober.base_url == f"http://127.0.0.1:{deployment.port}"
        real(prober, model, [sample(version="impossible")] if outside else samples, *rest, **options)

    monkeypatch.setattr(contract, "verify_samples", verify_samples)
    with visitors(deployment.port) as seen, pytest.raises(RolledBack, match="answers again"):
        deployment.apply("two")
    monkeypatch.undo()
    assert set(seen) <= {"one", "two"}
    assert seen[-1] == "one"
    assert deployment.containers() == before
    assert deployment.target().status() == first


def test_the_next_run_cleans_up_after_one_killed_before_the_switch(deployment: Deployment, client: docker.DockerClient) -> None:
    deployment.apply("one")
    before = deployment.containers()
    stray = deployment.release("stray")
    left = Containers(client, deployment.target().model).create_version(stray, stray.digest)
    left.container.start()  # as a killed run leaves it: running, verified or not, no front sends to it
    after = deployment.apply("one")
    assert (after.version, after.skipped) == ("one", True)
    assert deployment.containers() == before


def test_a_run_that_was_killed_after_the_switch_is_continued(deployment: Deployment, client: docker.DockerClient) -> None:
    one, two = deployment.release("one"), deployment.release("two")
    deployment.target().apply(one)
    containers = Containers(client, deployment.target().model)
    new = containers.create_version(two, two.digest)
    new.container.start()
    deployment.target()._wait_ready(containers, new.container)
    deployment.target()._front_to(containers, new)  # and killed here: the record still says "one"
    assert deployment.target().status().version == "two"
    after = deployment.target().apply(two)
    assert (after.skipped, after.previous) == (True, one.digest)
    assert deployment.target().rollback().version == "one"
    assert deployment.answer() == "one"


def test_a_run_that_was_killed_while_it_drained_is_finished(deployment: Deployment, client: docker.DockerClient) -> None:
    """It left the old version running for ever, and a second front."""
    one, two = deployment.release("one"), deployment.release("two")
    deployment.target().apply(one)
    deployment.target().apply(two)
    expected = deployment.containers()
    client.containers.get(deployment.name(one)).start()  # as the killed run leaves it: recorded, and not stopped
    with Containers(client, deployment.target().model).trial_front(_version(client, deployment, two)) as trial:
        assert trial.container.status == "running"
        after = deployment.target().apply(two)
    assert (after.skipped, after.previous) == (True, one.digest)
    assert deployment.containers() == expected


def _version(client: docker.DockerClient, deployment: Deployment, release: Release) -> VersionContainer:
    (version,) = [one for one in Containers(client, deployment.target().model).versions() if one.digest == release.digest]
    return version


@pytest.mark.parametrize("version", ["late", "behind"])
def test_a_version_that_turns_wrong_answers_no_user(deployment: Deployment, version: str) -> None:
    """After thirty requests, or only behind a front. Control: both pass their samples as a candidate, from inside."""
    deployment.apply("one")
    with visitors(deployment.port) as seen, pytest.raises(GateFailed):
        deployment.apply(version, "turns_wrong")
    assert set(seen) == {"one"}
    assert len(deployment.containers()) == 2
    assert deployment.target().status().version == "one"


@pytest.mark.parametrize("version", ["late", "behind"])
def test_control_without_the_trial_it_answers_users(deployment: Deployment, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    deployment.apply("one")
    monkeypatch.setattr(DockerTarget, "_verify_behind_a_front", lambda *_: None)
    with visitors(deployment.port) as seen, pytest.raises(RolledBack):
        deployment.apply(version, "turns_wrong")
    assert "wrong" in set(seen)


def test_an_interrupt_removes_the_candidate(deployment: Deployment) -> None:
    first = deployment.apply("one")
    before = deployment.containers()
    two = deployment.release("two", "slow_to_load")
    sent = threading.Event()

    def interrupt() -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not sent.is_set():
            with suppress(docker.errors.DockerException, requests.RequestException):  # it changes while it is read
                if deployment.containers().get(deployment.name(two)) == "running":
                    sent.set()
                    os.kill(os.getpid(), signal.SIGINT)

    watcher = threading.Thread(target=interrupt)
    watcher.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            deployment.target().apply(two)
    finally:
        watcher.join(70)
        assert sent.is_set(), "the candidate was never seen running"
    assert deployment.containers() == before
    assert deployment.target().status() == first


def test_changed_limits_make_a_separate_version(deployment: Deployment, client: docker.DockerClient) -> None:
    one, less = deployment.release("one"), {"resources": {"cpu": 0.5, "memory": "1Gi"}}
    deployment.target().apply(one)
    assert not deployment.target(**less).plan(one).unchanged
    with visitors(deployment.port) as seen:
        changed = deployment.target(**less).apply(one)
    assert (changed.state, changed.skipped, changed.previous) == ("ready", False, one.digest)
    assert set(seen) == {"one"}
    settings = client.containers.get(deployment.name(one, **less)).attrs["HostConfig"]
    assert (settings["Memory"], settings["NanoCpus"]) == (1 << 30, 5 * 10**8)
    assert deployment.containers() == {
        f"torchrelay-{NAME}-front": "running",
        deployment.name(one): "exited",
        deployment.name(one, **less): "running",
    }
    assert deployment.target(**less).plan(one).unchanged
    assert deployment.target(**less).apply(one).skipped


def test_the_front_is_renewed_with_the_runtime(deployment: Deployment, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    deployment.apply("one")
    before = deployment.front_runtime()
    deployment.apply("two")
    assert deployment.front_runtime() == before
    assert "interrupted" not in caplog.text
    with visitors(deployment.port) as seen:
        third = deployment.target().apply(deployment.release_of_runtime("three", "newer"))
    assert (third.state, deployment.front_runtime(), deployment.answer()) == ("ready", "newer", "three")
    assert "connections are interrupted for a moment" in caplog.text
    assert {"two", "three"} <= set(seen)
    assert deployment.containers()[f"torchrelay-{NAME}-front"] == "running"
    assert (deployment.target().rollback().version, deployment.answer()) == ("two", "two")
    assert deployment.front_runtime() == "newer"


def test_a_front_that_does_not_start_leaves_the_old_one(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    deployment.apply("one")
    before, runtime = deployment.containers(), deployment.front_runtime()
    wait_up = Front.wait_up

    def refuse(front: Front) -> None:
        if front.runtime == "newer":
            raise DeployFailed("the front did not start")
        wait_up(front)

    monkeypatch.setattr(Front, "wait_up", refuse)
    with pytest.raises(DeployFailed, match="did not start"):
        deployment.target().apply(deployment.release_of_runtime("two", "newer"))
    assert (deployment.containers(), deployment.front_runtime()) == (before, runtime)
    assert (deployment.target().status().version, deployment.answer()) == ("one", "one")


def test_another_copy_of_the_directory_waits(deployment: Deployment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docker_target, "TURN_S", 0.2)
    one, two, target = deployment.release("one"), deployment.release("two"), deployment.target()
    copy = DockerTarget(replace(target.context, model_dir=tmp_path / "copy"))
    wait_ready = target._wait_ready

    def wait_while_the_copy_tries(containers: Containers, container: Any) -> None:
        for attempt in (lambda: copy.apply(two), copy.rollback, copy.delete):
            with pytest.raises(Busy, match=str(os.getpid())) as caught:
                attempt()
            assert caught.value.exit_code == 40
        wait_ready(containers, container)

    target._wait_ready = wait_while_the_copy_tries  # type: ignore[method-assign] # replaced for this test
    assert target.apply(one).state == "ready"
    assert deployment.answer() == "one"


def test_a_restarted_front_finds_the_live_version(deployment: Deployment, client: docker.DockerClient) -> None:
    deployment.apply("one")
    deployment.apply("two")
    client.containers.get(f"torchrelay-{NAME}-front").restart(timeout=10)
    deadline = time.monotonic() + 20
    while deployment.answer() != "two":
        assert time.monotonic() < deadline, deployment.answer()
        time.sleep(0.1)
    assert deployment.target().status().version == "two"
    assert deployment.apply("two").skipped


def test_a_changed_port_is_opened_before_the_old_one_is_closed(deployment: Deployment) -> None:
    deployment.apply("one")
    deployment.port = free_port()
    moved = deployment.apply("one")
    assert moved.url == f"http://127.0.0.1:{deployment.port}/predictions/{NAME}"
    assert deployment.answer() == "one"
    assert len([name for name in deployment.containers() if "front" in name]) == 1


def test_a_taken_port_is_reported_before_anything_starts(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    def candidate(*_: object) -> None:
        raise AssertionError("a candidate was started")

    monkeypatch.setattr(DockerTarget, "_candidate", candidate)
    with socket.create_server(("127.0.0.1", deployment.port)), pytest.raises(PortTaken, match=str(deployment.port)) as caught:
        deployment.apply("one")
    assert "targets: {docker: {port:" in caught.value.fix


def test_a_port_that_is_taken_during_the_run_leaves_nothing(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Containers, "require_port", lambda *_: None)
    with socket.create_server(("127.0.0.1", deployment.port)), pytest.raises(PortTaken, match=str(deployment.port)):
        deployment.apply("one")
    assert deployment.containers() == {}


def test_a_version_that_ended_is_started_again(deployment: Deployment, client: docker.DockerClient) -> None:
    one = deployment.release("one")
    deployment.target().apply(one)
    client.containers.get(deployment.name(one)).stop(timeout=20)
    assert deployment.target().status().state == "stopped"
    assert deployment.target().apply(one).state == "ready"
    assert deployment.answer() == "one"


def test_a_missing_image_or_previous_version_is_reported(deployment: Deployment) -> None:
    missing = Release("x", "sha256:" + "0" * 64, (sample(),))
    with pytest.raises(DeployFailed, match="the daemon has no image"):
        deployment.target().apply(missing)
    with pytest.raises(DeployFailed, match="cannot be pulled"):
        deployment.target().apply(replace(missing, reference="127.0.0.1:9/nothing@sha256:" + "0" * 64))
    with pytest.raises(DeployFailed, match="no previous version"):
        deployment.target().rollback()


def test_large_bodies_pass_through_exec(deployment: Deployment, client: docker.DockerClient) -> None:
    release = deployment.release("one")
    deployment.target().apply(release)
    body = json.dumps({"echo": "x" * 900_000}).encode()
    prober = container_prober(client.containers.get(deployment.name(release)))
    sent = [ProbeRequest(str(turn), "POST", f"/predictions/{NAME}", "application/json", body) for turn in range(16)]
    answers = prober.send(sent, 4, 60.0)
    assert [answer.id for answer in answers] == [request.id for request in sent]
    assert {answer.status for answer in answers} == {200}
    assert {len(json.loads(answer.body)["echo"]) for answer in answers} == {900_000}


def test_a_probe_of_a_dead_container_is_one_error(deployment: Deployment, client: docker.DockerClient) -> None:
    release = deployment.release("one")
    deployment.target().apply(release)
    container = client.containers.get(deployment.name(release))
    container.stop(timeout=20)
    with pytest.raises(GateFailed, match="not running"):
        container_prober(container).send([ProbeRequest("1", "GET", "/ping", "", b"")], 1, 5.0)
