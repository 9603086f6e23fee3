"""Waiting until a model is ready, or reporting why it is not; and a prober that runs commands in a container or a pod."""

import json
from collections.abc import Iterator, Sequence

import pytest

from torchrelay.core.errors import GateFailed
from torchrelay.verification.prober import Address, ExecProber, ProbeAnswer, ProbeRequest, Readiness
from torchrelay.verification.ready import LOAD_FIX, REFUSED, STARTUP_FIX, wait_ping, wait_ready

STARTING = Readiness(False, "the server is starting", False)
READY = Readiness(True, "", False)
TRACEBACK = 'Traceback (most recent call last):\n  File "model.py", line 1\nRuntimeError: no weights today\n'
LOG = f"{TRACEBACK}Backend worker process died.\n"


class Clock:
    """A clock that advances one second with each look."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


def waited(states: Sequence[Readiness], log: str = "", limit_s: float = 20.0) -> float:
    """Wait with these states; the last one repeats."""
    left: Iterator[Readiness] = iter([*states, *[states[-1]] * 100])
    return wait_ready(lambda: next(left), lambda _: log, limit_s, poll_s=0.0, clock=Clock())


def test_it_returns_the_seconds_until_a_worker_answered() -> None:
    assert waited([READY]) == 2.0
    assert waited([STARTING, STARTING, READY]) == 4.0


@pytest.mark.parametrize(
    ("states", "log", "message", "fix"),
    [
        ([STARTING], "", "not ready after 20 s; last state: the server is starting", STARTUP_FIX),
        ([STARTING], LOG, "the model does not load: RuntimeError: no weights today", LOAD_FIX),
        ([STARTING], "Backend worker process died.", "the model does not load: its process died", LOAD_FIX),
        ([Readiness(False, "three attempts failed", True)], "", "the model does not load: three attempts failed", LOAD_FIX),
        ([Readiness(False, f"{REFUSED} 500", False)], "", "loads but does not answer: the warm-up request", LOAD_FIX),
        ([STARTING], "did not respond in given time. Backend worker process died.", "timeouts.startup_s", STARTUP_FIX),
    ],
)
def test_it_reports_why_a_model_is_not_ready(states: list[Readiness], log: str, message: str, fix: str) -> None:
    with pytest.raises(GateFailed) as caught:
        waited(states, log)
    assert message in caught.value.message
    assert caught.value.fix == fix


def test_one_refused_warm_up_request_is_not_the_end() -> None:
    assert waited([Readiness(False, f"{REFUSED} 503", False), STARTING, READY]) > 0


class Pings:
    """A prober whose /ping has these statuses."""

    def __init__(self, *statuses: int) -> None:
        self.statuses = list(statuses)

    def send(self, requests: Sequence[ProbeRequest], _concurrency: int, _timeout_s: float) -> list[ProbeAnswer]:
        status = self.statuses.pop(0)
        return [ProbeAnswer(request.id, status, "", b"busy", 1.0, None if status else "refused") for request in requests]


def test_ping_is_awaited_and_its_last_answer_reported() -> None:
    pings = Pings(0, 503, 200)
    wait_ping(lambda: pings, "http://host")
    assert pings.statuses == []
    with pytest.raises(GateFailed, match="http://host/ping is not answered with 200 after 0 s: 503 busy"):
        wait_ping(lambda: Pings(503), "http://host", limit_s=0.1)


class Runs:
    """A fake container: records how it is called, and prints this output."""

    def __init__(self, output: bytes, errors: bytes = b"") -> None:
        self.output = output
        self.errors = errors
        self.calls: list[tuple[list[str], bytes, float]] = []

    def __call__(self, command: Sequence[str], stdin: bytes, timeout_s: float) -> tuple[int, bytes, bytes]:
        self.calls.append((list(command), stdin, timeout_s))
        return 1, self.output, self.errors


REQUESTS = [ProbeRequest(name, "GET", "/ping", "", b"") for name in "abc"]


def test_a_probe_gets_its_requests_as_one_line_and_time_for_each_round() -> None:
    row = {"status": 200, "content_type": "", "body": "", "latency_ms": 1.0}
    runs = Runs(json.dumps([{"id": request.id, **row} for request in REQUESTS]).encode())
    answers = ExecProber(runs, "pod p", "kubectl logs p", Address("10.0.0.1", 80)).send(REQUESTS, 2, 5.0)
    assert [answer.id for answer in answers] == ["a", "b", "c"]
    ((command, stdin, timeout_s),) = runs.calls
    assert command[-1].endswith(".probe")
    assert (stdin.count(b"\n"), stdin[-1:], timeout_s) == (1, b"\n", 40.0)
    assert (json.loads(stdin)["host"], json.loads(stdin)["port"]) == ("10.0.0.1", 80)
    assert ExecProber(runs, "", "").send([], 2, 5.0) == []
    assert len(runs.calls) == 1


def test_a_probe_that_fails_is_reported_with_its_output_and_how_to_read_the_log() -> None:
    with pytest.raises(GateFailed, match="pod p: the probe ended with code 1 and printed no JSON\nno such file") as caught:
        ExecProber(Runs(b"", b"no such file"), "pod p", "kubectl logs p").send(REQUESTS, 2, 5.0)
    assert caught.value.fix == "read its log: kubectl logs p"


def test_readiness_is_parsed_or_explained() -> None:
    assert ExecProber(Runs(b'{"ready": true, "reason": "", "failed": false}'), "c", "l").ready() == READY
    nested = b"[" * 100_000
    for output in (b"", b"[]", b"{}", nested):
        readiness = ExecProber(Runs(output, b"boom"), "c", "l").ready()
        assert readiness == Readiness(False, "the probe ended with code 1: boom", False)
