"""/ping is 200 only while a worker can answer (docs/torchserve.md, T3 to T6). Control: the server's own /ping is 200 earlier."""

from __future__ import annotations

from collections.abc import Iterator

import docker
import pytest

from tests.container.harness import Answer, Container, Factory, TooLate, poll

SERVER_PORT = 8085


@pytest.fixture(scope="module")
def recovering(
    client: docker.DockerClient, runtime: str, server: str, images: set[str], request: pytest.FixtureRequest
) -> Iterator[Container]:
    """A ready container for the tests whose worker is replaced; each leaves it ready."""
    factory = Factory(client, runtime, server, images)
    yield factory(serving={"response_timeout_s": 1}).wait_ready()
    factory.remove_all(show=request.session.testsfailed > 0)


def server_ping(container: Container) -> int:
    return container.inside(SERVER_PORT, "/ping")[0]


def not_ready(container: Container) -> dict[str, object] | None:
    status = container.ready()
    return None if status["ready"] else status


def failed(container: Container, seconds: float) -> dict[str, object]:
    """Wait until the server has given up."""
    return poll("giving up", lambda: ((status := container.ready())["failed"] and status) or None, seconds)


def test_not_ready_while_the_model_is_loaded(container: Factory) -> None:
    one = container("slow_to_load")
    poll("the front's start", lambda: "nginx" in one.exec("sh", "-c", "cat /proc/[0-9]*/comm")[1] or None, 20)

    def loading() -> Answer | None:
        try:
            ping = one.send("GET", "/ping")
        except ConnectionError:  # the front's process exists before it listens
            return None
        return ping if b"the model is being loaded" in ping.body else None

    answer = poll("the server's start", loading, 20)
    assert answer.status == 503
    assert answer.headers["retry-after"] == "1"
    assert server_ping(one) == 200, "control: the server's own /ping does not mean that the model is loaded"
    assert one.send("GET", "/ping").status == 503
    one.wait_ready()
    assert one.send("GET", "/ping").status == 200


def test_not_ready_when_a_loaded_model_cannot_answer(container: Factory) -> None:
    one = container("loads_but_cannot_answer")
    status = poll(
        "the warm-up request's answer",
        lambda: ((s := not_ready(one)) and "was answered with 503" in str(s["reason"]) and s) or None,
        30,
    )
    assert not status["failed"]
    assert server_ping(one) == 200, "control: the server's own /ping does not check answers"
    answer = one.send("GET", "/ping")
    assert (answer.status, answer.json["ready"]) == (503, False)


def test_a_model_that_cannot_be_loaded_is_given_up_and_its_traceback_is_in_the_log(container: Factory) -> None:
    one = container("fails_to_load")
    status = failed(one, 60)
    assert not status["ready"]
    assert "loading the model" in str(status["reason"])
    assert one.running()
    assert "RuntimeError: no such weights: the test's own failure" in one.logs()
    assert one.exec("/opt/torchrelay/venv/bin/python", "-P", "-m", "torchrelay_runtime.probe", "--live")[0] == 1
    assert one.predict().status >= 500


def test_a_start_that_takes_too_long_is_given_up(container: Factory) -> None:
    """docs/torchserve.md, T6: `startupTimeout` is passed on; without it, loading would go on for 6 s and succeed."""
    one = container(
        "slow_to_load",
        serving={"startup_timeout_s": 1},
        model_config="maxRetryTimeoutInSec: 1\nstartupTimeout: 1\nminWorkers: 1\nmaxWorkers: 1\n",
    )
    assert not failed(one, 60)["ready"]


def test_ready_again_after_a_worker_died_and_came_back(recovering: Container) -> None:
    """docs/torchserve.md, T5: one request gets a 5xx; the next worker must answer before the container is ready."""
    one = recovering
    before = one.predict().json["pid"]
    assert one.predict(exit=137).status in (500, 503, 507)
    poll("a worker's answer", lambda: one.predict().status == 200 or None, 30)
    one.wait_ready()
    assert one.predict().json["pid"] != before
    assert one.running()


def test_not_ready_while_the_worker_crashes_at_every_start(recovering: Container) -> None:
    one = recovering
    assert one.predict(**{"break": True}).status >= 500
    poll("the not-ready status", lambda: not_ready(one), 10)
    assert one.send("GET", "/ping").status == 503
    assert one.exec("rm", "/tmp/broken")[0] == 0  # noqa: S108 -- inside the container
    one.wait_ready()
    assert one.predict().status == 200


def test_a_server_that_gave_up_is_reported(container: Factory) -> None:
    """docs/torchserve.md, T4: after `maxRetryTimeoutInSec` the server does not restart its worker; the container has failed."""
    one = container(model_config="maxRetryTimeoutInSec: 1\nminWorkers: 1\nmaxWorkers: 1\n").wait_ready()
    assert one.predict(**{"break": True}).status >= 500
    status = failed(one, 40)
    assert status["reason"] == "the server gave up restarting its worker"
    assert one.exec("rm", "/tmp/broken")[0] == 0  # noqa: S108 -- inside the container
    try:
        poll("control: a restart", lambda: one.ready()["ready"] or None, 4)
    except TooLate:
        return
    raise AssertionError("the server had not given up")


def test_a_request_that_takes_too_long_is_answered_and_the_worker_replaced(recovering: Container) -> None:
    """docs/torchserve.md, T6: `responseTimeout` is passed on; the server answers, not the front with 504."""
    one = recovering
    answer = one.predict(sleep=30)
    assert answer.status in (500, 503)
    assert "Worker died" in answer.body.decode()
    poll("the next worker's answer", lambda: one.predict().status == 200 or None, 30)
    one.wait_ready()
