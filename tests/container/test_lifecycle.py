"""The end of a container: no request in flight is lost, and the container ends with the server (docs/torchserve.md, T1 and T2)."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from tests.container.harness import PYTHON, Answer, Container, Factory, persistent_connections, poll

BATCH = 8
SLEEP_S = 1.5
# The forwarded requests without an answer yet, as drain.py counts them.
COUNT = """
import pathlib
from torchrelay_runtime.front import in_flight
print(in_flight(pathlib.Path("/tmp/torchrelay")))
"""


@contextmanager
def in_flight(container: Container, seconds: float = SLEEP_S) -> Iterator[list[Future[Answer]]]:
    """Send requests to the worker, each over a separate connection; yields their futures."""
    with ThreadPoolExecutor(BATCH) as pool:
        futures = [pool.submit(container.predict, 60.0, echo=number, sleep=seconds) for number in range(BATCH)]
        poll("all requests in flight", lambda: container.python(COUNT) == BATCH or None, 10)
        yield futures


def start(container: Factory) -> Container:
    return container(serving={"batch_size": BATCH, "batch_delay_ms": 100}).wait_ready()


def statuses(futures: list[Future[Answer]]) -> list[object]:
    return [type(error).__name__ if (error := future.exception()) else future.result().status for future in futures]


def test_term_loses_no_request_in_flight(container: Factory) -> None:
    one = start(container)
    with in_flight(one) as futures:
        one.raw.kill("SIGTERM")
        assert statuses(futures) == [200] * BATCH
        assert sorted(future.result().json["echo"] for future in futures) == list(range(BATCH))
    assert one.wait_exit(20) == 0


def test_control_the_end_of_the_server_loses_requests(container: Factory) -> None:
    one = start(container)
    with in_flight(one) as futures:
        assert one.exec("sh", "-c", f"kill -TERM {one.server_pid()}")[0] == 0
        assert 200 not in statuses(futures)
    one.wait_exit(20)


def test_the_drain_time_ends_a_wait_for_a_stuck_request(container: Factory) -> None:
    one = container(serving={"drain_timeout_s": 7}).wait_ready()
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(one.predict, 60.0, sleep=19)
        poll("the request's start", lambda: future.running() or None, 5)
        began = time.monotonic()
        one.raw.kill("SIGTERM")
        assert one.wait_exit(15) == 0
        assert time.monotonic() - began < 12
        assert statuses([future]) != [200]


def test_drain_answers_requests_while_it_waits_and_returns_when_none_is_left(container: Factory) -> None:
    one = start(container)
    with in_flight(one, 3.0) as futures:
        command = ["docker", "exec", "-e", "TORCHRELAY_PROPAGATION_S=0.5", one.id, PYTHON, "-P", "-m", "torchrelay_runtime.drain"]
        with subprocess.Popen(command) as drain:
            answer = poll("the not-ready status", lambda: ((a := one.send("GET", "/ping")).status == 503 and a) or None, 10)
            assert answer.json == {"ready": False, "reason": "draining", "failed": False}
            assert drain.poll() is None
            with ThreadPoolExecutor(1) as pool:
                late = pool.submit(one.predict, 60.0, echo="late")
                assert drain.wait(30) == 0
                assert all(future.done() for future in futures), "drain returned before the last answer"
                assert late.result().json["echo"] == "late", "a client that does not know yet is served"
        assert statuses(futures) == [200] * BATCH
    assert one.ready()["reason"] == "draining"
    assert one.running()
    began = time.monotonic()
    assert one.exec("env", "TORCHRELAY_PROPAGATION_S=0", PYTHON, "-P", "-m", "torchrelay_runtime.drain")[0] == 0
    assert time.monotonic() - began < 3, "control: drain does not wait when nothing is in flight"


def test_connections_in_use_are_closed_by_a_header_before_the_end(container: Factory) -> None:
    one = container().wait_ready()
    assert one.predict().headers["connection"] == "keep-alive"
    command = ["docker", "exec", "-e", "TORCHRELAY_PROPAGATION_S=2", one.id, PYTHON, "-P", "-m", "torchrelay_runtime.drain"]
    with persistent_connections(one) as failures, subprocess.Popen(command) as drain:
        poll("the header that closes", lambda: one.predict().headers["connection"] == "close" or None, 10)
        assert drain.poll() is None
    assert drain.returncode in (0, 1), "clients that continue for the whole drain time are not a failure"
    assert failures == []


@pytest.mark.parametrize(("signal", "code"), [("KILL", 137), ("TERM", 143)])
def test_the_container_ends_with_the_server(container: Factory, signal: str, code: int) -> None:
    one = container().wait_ready()
    assert one.exec("sh", "-c", f"kill -{signal} {one.server_pid()}")[0] == 0
    assert one.wait_exit(10) == code
    assert "the server (torchserve) ended with code" in one.logs()


def test_the_container_ends_with_the_front(container: Factory) -> None:
    one = container().wait_ready()
    assert one.exec("sh", "-c", "kill -KILL $(cat /tmp/torchrelay/nginx.pid)")[0] == 0
    assert one.wait_exit(10) == 137


def test_a_stop_before_the_start_is_over_is_quick(container: Factory) -> None:
    one = container("slow_to_load")
    poll("the entrypoint's start", lambda: "the server is starting" in one.logs() or None, 10)
    began = time.monotonic()
    one.raw.kill("SIGTERM")
    assert one.wait_exit(10) == 0
    assert time.monotonic() - began < 8


def test_a_restarted_container_serves_again(container: Factory) -> None:
    """Without a tmpfs, the writable folder survives a restart: old sockets and status files must not matter."""
    one = container(read_only=False).wait_ready()
    one.raw.kill("SIGKILL")
    one.wait_exit(10)
    one.raw.start()
    one.wait_ready()
    assert one.predict(echo=1).json["echo"] == 1
