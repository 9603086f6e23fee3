"""Attacks on the endpoint, each beside 20 ordinary requests per second from another address.

Every ordinary answer must be right, and nearly all must come. The control of each attack takes a guard away, and they do not come.
Times are printed, not judged: attacker, model and clients share this machine's cores. `make soak` runs these; each guard also has
a test in tests/integration/test_front.py.
"""

from __future__ import annotations

import http.client
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import docker
import pytest
from docker.models.containers import Container as DockerContainer

from tests.container.corpus import served
from tests.container.corpus.case import Case
from tests.container.harness import HOME, PREDICT, Container, Factory, poll
from torchrelay.core.paths import RUNTIME

RATE = 20  # ordinary requests per second
BEFORE_S, DURING_S, AFTER_S = 2.0, 8.0, 2.0
MOST_MIB = 6  # the default of max_body_mb
KIND = served.KINDS["image-classifier"]
RUNTIME_FILES = f"{HOME}/runtime/torchrelay_runtime"

# Each program attacks argv[1]:8080 for argv[2] seconds.
_START = """
import http.client, socket, sys, threading, time
host, until = sys.argv[1], time.monotonic() + float(sys.argv[2])

def connect():
    return socket.create_connection((host, 8080), timeout=30)

def post(body, kind):
    connection = http.client.HTTPConnection(host, 8080, timeout=60)
    try:
        connection.request("POST", "/predictions/model", body, {"Content-Type": kind})
        connection.getresponse().read()
    except (OSError, http.client.HTTPException):
        time.sleep(0.1)
    finally:
        connection.close()

def repeat(act):
    while time.monotonic() < until:
        act()

def together(count, act):
    threads = [threading.Thread(target=repeat, args=(act,)) for _ in range(count)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
"""
SLOW_BODIES = """
HEAD = b"POST /predictions/model HTTP/1.1\\r\\nHost: x\\r\\nContent-Type: image/png\\r\\nContent-Length: 1000\\r\\n\\r\\nx"
connections = []
while time.monotonic() < until:
    kept = []
    for one in connections:
        try:
            one.sendall(b"x")
            kept.append(one)
        except OSError:
            one.close()
    connections = kept
    try:
        while len(connections) < 512 and time.monotonic() < until:
            one = connect()
            one.sendall(HEAD)
            connections.append(one)
    except OSError:
        pass
    time.sleep(2)
"""
LARGE_BODIES = """
body = b"x" * (6 << 20)
together(120, lambda: post(body, "image/png"))
"""
# Netty 4.1.53 keeps every attribute of a part's header, and of a type that only begins like a form's.
FORMS = """
body = b"--A\\r\\nContent-Disposition: form-data; " + b"a=b;" * 1_500_000 + b"\\r\\n\\r\\n"
together(24, lambda: post(body, "multipart/form-dataX; boundary=A"))
"""
LEAVING_CLIENTS = """
def leave():
    one = connect()
    one.sendall(b"POST /predictions/model HTTP/1.1\\r\\nHost: x\\r\\nContent-Type: image/png\\r\\nContent-Length: 3\\r\\n\\r\\nabc")
    one.close()
    time.sleep(0.02)
together(4, leave)
"""


@dataclass(frozen=True)
class Attack:
    """The control is an image in which `file`, of the runtime, has other texts: `without` maps each guard to what replaces it."""

    program: str
    file: str
    without: dict[str, str]
    slow: bool = False  # a model that takes its time, so that requests wait for it


ATTACKS = {
    "slow bodies": Attack(
        SLOW_BODIES,
        "admission.lua",
        # every request is in flight from its headers on, and nginx then waits for the body
        {"    if size > 0 then\n        arrive(size)\n        size = received()\n    end\n": ""},
    ),
    "large bodies": Attack(
        LARGE_BODIES,
        "nginx.py",
        {
            "max(front.body_budget - small, front.max_body_bytes)": "1 << 40",
            "max(arriving_bytes(front.body_budget), front.max_body_bytes)": "1 << 40",
        },
        slow=True,
    ),
    "forms": Attack(
        FORMS, "nginx.py", {"proxy_set_header Content-Type {NEUTRAL_TYPE};": "proxy_set_header Content-Type $http_content_type;"}
    ),
}


@pytest.fixture
def attacker(client: docker.DockerClient, runtime: str) -> Iterator[DockerContainer]:
    """A container with its own address; the tests' own requests come from another one."""
    container = client.containers.run(runtime, ["600"], entrypoint=["sleep"], detach=True, nano_cpus=int(1e9), mem_limit="2g")
    yield container
    container.remove(force=True)


@dataclass
class Clients:
    """Ordinary clients: `RATE` requests per second, each on its own connection, whether or not earlier ones were answered."""

    container: Container
    expected: dict[str, Any]
    seconds: dict[str, list[float]] = field(default_factory=dict)
    refused: dict[str, list[str]] = field(default_factory=dict)
    wrong: list[Any] = field(default_factory=list)

    def is_right(self, answer: Any) -> bool:
        """The same class, and a confidence to four digits: a batch adds up in another order."""
        near = abs(answer["confidence"] - self.expected["confidence"]) < 1e-4
        return bool(answer["class"] == self.expected["class"] and near)

    def ask(self, phase: str) -> None:
        began = time.monotonic()
        try:
            answer = self.container.send("POST", PREDICT, KIND.good.body, KIND.good.content_type, timeout=5)
        except (OSError, http.client.HTTPException) as error:
            self.refused.setdefault(phase, []).append(type(error).__name__)
            return
        if answer.status != 200:
            self.refused.setdefault(phase, []).append(str(answer.status))
        elif not self.is_right(answer.json):
            self.wrong.append(answer.json)
        else:
            self.seconds.setdefault(phase, []).append(time.monotonic() - began)

    def run(self, phase: str, seconds: float) -> None:
        with ThreadPoolExecutor(256) as pool:
            began = time.monotonic()
            for number in range(int(seconds * RATE)):
                time.sleep(max(0.0, began + number / RATE - time.monotonic()))
                pool.submit(self.ask, phase)

    def share(self, phase: str) -> float:
        """The part of the requests that got the right answer."""
        answered = len(self.seconds.get(phase, []))
        return answered / max(1, answered + len(self.refused.get(phase, [])))

    def report(self) -> str:
        lines = []
        for phase in ("before", "during", "after"):
            times = sorted(self.seconds.get(phase, []))
            p99 = f"{times[int(0.99 * (len(times) - 1))] * 1000:.0f} ms" if times else "-"
            reasons = {one: self.refused.get(phase, []).count(one) for one in set(self.refused.get(phase, []))}
            lines.append(f"{phase}: {self.share(phase):.0%} answered, p99 {p99}, refused {reasons}")
        return "\n".join(lines)


def attacked(container: Container, attacker: DockerContainer, program: str) -> Clients:
    """Send ordinary requests before, during and after an attack."""
    good = container.send("POST", PREDICT, KIND.good.body, KIND.good.content_type)
    assert good.status == 200
    clients = Clients(container, good.json)
    clients.run("before", BEFORE_S)
    command = [f"{HOME}/venv/bin/python", "-c", _START + program, container.address, str(DURING_S)]
    attack = threading.Thread(target=attacker.exec_run, args=(command,))
    attack.start()
    time.sleep(1)  # until it has opened its connections
    clients.run("during", DURING_S - 2)
    attack.join(120)
    time.sleep(1)
    clients.run("after", AFTER_S)
    print(clients.report())
    return clients


SLOW_MODEL = """
import time

def handle(data, context):
    if data is not None:
        time.sleep(0.3)
        return [{"class": "9", "confidence": 0.5}] * len(data)
"""


def slow_model(folder: Path) -> Path:
    """A model directory whose handler answers everything alike, a batch in 0.3 s."""
    (folder / "handler.py").write_text(SLOW_MODEL)
    (folder / "model.pt").write_bytes(b"unused")
    (folder / "model.yaml").write_text("name: slow\nweights: model.pt\nhandler: handler.py\n")
    return folder


def model_image(container: Factory, folder: Path, attack: Attack, *, guarded: bool) -> str:
    """The image of examples/digits with default limits, or of a slow model; with or without the attack's guard."""
    directory = slow_model(folder) if attack.slow else KIND.make(folder)
    tag, _ = served.image_of(container, directory, KIND.good, {}, MOST_MIB)
    if guarded:
        return tag
    text = (RUNTIME / "torchrelay_runtime" / attack.file).read_text()
    for guard, without in attack.without.items():
        assert text.count(guard) == 1, "the guard has moved: adapt the control"
        text = text.replace(guard, without)
    return container.changed(tag, {f"{RUNTIME_FILES}/{attack.file}": text})


@pytest.mark.soak
@pytest.mark.parametrize("name", ATTACKS)
def test_ordinary_requests_are_answered_during(name: str, container: Factory, attacker: DockerContainer, tmp_path: Path) -> None:
    one = container.start(model_image(container, tmp_path, ATTACKS[name], guarded=True), cpus=2.0).wait_ready()
    clients = attacked(one, attacker, ATTACKS[name].program)
    assert clients.wrong == []
    assert clients.share("before") == clients.share("after") == 1
    assert clients.share("during") > 0.95
    assert one.running()


@pytest.mark.soak
@pytest.mark.parametrize("name", ATTACKS)
def test_control_without_the_guard_they_are_not(name: str, container: Factory, attacker: DockerContainer, tmp_path: Path) -> None:
    one = container.start(model_image(container, tmp_path, ATTACKS[name], guarded=False), cpus=2.0).wait_ready()
    clients = attacked(one, attacker, ATTACKS[name].program)
    assert clients.wrong == []
    assert clients.share("during") < 0.9 or not one.running()


@pytest.mark.soak
def test_clients_that_leave_cost_nothing(container: Factory, attacker: DockerContainer, tmp_path: Path) -> None:
    one = container.start(model_image(container, tmp_path, ATTACKS["forms"], guarded=True), cpus=2.0).wait_ready()
    clients = attacked(one, attacker, LEAVING_CLIENTS)
    assert clients.wrong == []
    assert clients.share("during") > 0.95
    poll("no note of a request that left", lambda: one.exec("sh", "-c", "ls /tmp/torchrelay/cancelled")[1] == "" or None, 300)


SLOW_HANDLER = """
import pathlib, time

def handle(data, context):
    if data is not None:
        for row in data:
            pathlib.Path("/tmp/seen-" + row["body"].decode()).touch()
        time.sleep(2)
        return ["done"] * len(data)
"""


def test_a_request_whose_client_left_is_not_executed(container: Factory, tmp_path: Path) -> None:
    """Control: the request whose client stays. Stock TorchServe executes all of them (pytorch/serve#1322)."""
    (tmp_path / "handler.py").write_text(SLOW_HANDLER)
    (tmp_path / "model.pt").write_bytes(b"unused")
    (tmp_path / "model.yaml").write_text("name: slow\nweights: model.pt\nhandler: handler.py\n")
    tag, _ = served.image_of(container, tmp_path, Case("good", b"warm-up", "application/octet-stream", wanted="answered"), {})
    one = container.start(tag).wait_ready()
    head = f"POST {PREDICT} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 1\r\n\r\n"
    connections = [socket.create_connection((one.address, 8080), timeout=30) for _ in range(5)]
    for number, connection in enumerate(connections):
        connection.sendall(f"{head}{number}".encode())
        time.sleep(0.3)  # the first runs alone, and the others wait for it
    for connection in connections[1:4]:
        connection.close()
    for connection in (connections[0], connections[4]):
        assert connection.recv(4096).startswith(b"HTTP/1.1 200 ")
        connection.close()
    assert one.exec("sh", "-c", "ls /tmp | grep 'seen-[0-9]'")[1].split() == ["seen-0", "seen-4"]
