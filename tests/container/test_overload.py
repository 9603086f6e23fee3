"""How the front refuses large bodies, a full queue, slow clients and clients that leave (docs/torchserve.md, T7 to T10, T14)."""

from __future__ import annotations

import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor

from tests.container.harness import JSON, PREDICT, PROBLEM, SERVING, Container, Factory, poll

# Opens connections that never finish their request, to the front and to the server. Prints after how many seconds each ended.
SLOW_LORIS = """
import json, select, socket, time
head = b"POST /predictions/model HTTP/1.1\\r\\nHost: x\\r\\n"
unfinished = [head, head + b"Content-Length: 99\\r\\n\\r\\n{"]
began = time.monotonic()
connections = {}
for port in (8080, 8085):
    for kind, start in zip(("headers", "body"), unfinished):
        connection = socket.create_connection(("127.0.0.1", port))
        connection.sendall(start)
        connections[connection] = f"{port} {kind}"
closed = {}
while len(closed) < 2 and time.monotonic() - began < 30:
    for connection in select.select([c for c in connections if connections[c] not in closed], [], [], 1)[0]:
        try:
            gone = connection.recv(4096) == b""
        except ConnectionResetError:
            gone = True
        if gone:
            closed[connections[connection]] = time.monotonic() - began
print(json.dumps(closed))
"""


def test_a_body_over_the_limit_is_413_and_the_limit_is_named(shared: Container) -> None:
    limit = SERVING["max_body_bytes"]
    fits = shared.send("POST", PREDICT, b'{"echo": "' + b"x" * (limit - 12) + b'"}')
    assert (fits.status, len(fits.json["echo"])) == (200, limit - 12)
    answer = shared.send("POST", PREDICT, b"x" * (limit + 1))
    assert (answer.status, answer.headers["content-type"]) == (413, PROBLEM)
    assert answer.json == {
        "type": "urn:torchrelay:problem:body-too-large",
        "title": "Request Entity Too Large",
        "status": 413,
        "detail": f"The body is larger than the {limit} bytes that are allowed",
    }


def test_a_chunked_body_over_the_limit_is_413(shared: Container) -> None:
    with socket.create_connection((shared.address, 8080), timeout=20) as connection:
        connection.sendall(f"POST {PREDICT} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
        try:
            for _ in range(SERVING["max_body_bytes"] // 0x10000 + 2):
                connection.sendall(chunk)
        except (BrokenPipeError, ConnectionResetError):
            pass
        assert connection.recv(4096).startswith(b"HTTP/1.1 413 ")


def test_a_full_queue_is_503_with_retry_after_at_once(container: Factory) -> None:
    one = container().wait_ready()
    began = time.monotonic()
    with ThreadPoolExecutor(40) as pool:
        answers = list(pool.map(lambda _: (one.predict(sleep=0.2), time.monotonic() - began), range(40)))
    refused = [(answer, after) for answer, after in answers if answer.status == 503]
    served = [answer for answer, _ in answers if answer.status == 200]
    assert len(refused) + len(served) == 40
    assert len(refused) >= 15, "the queue holds 16 and the worker one"
    assert {answer.headers.get("retry-after") for answer, _ in refused} == {"1"}
    assert min(after for _, after in refused) < 2
    assert one.send("GET", "/ping").status == 200, "busy is not broken"


def test_slow_clients_are_cut_off(shared: Container) -> None:
    """Control: the server alone keeps both connections for ever."""
    closed = shared.python(SLOW_LORIS)
    assert set(closed) == {"8080 headers", "8080 body"}
    assert all(9 <= seconds <= 15 for seconds in closed.values())


def test_clients_that_leave_cost_no_capacity(container: Factory) -> None:
    one = container(serving={"batch_size": 4, "batch_delay_ms": 5}).wait_ready()
    body = json.dumps({"sleep": 0.05}).encode()
    head = f"POST {PREDICT} HTTP/1.1\r\nHost: x\r\nContent-Type: {JSON}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    for _ in range(60):
        with socket.create_connection((one.address, 8080), timeout=10) as connection:
            connection.sendall(head + body)
    poll("an empty queue", lambda: one.predict().status == 200 or None, 20)
    with ThreadPoolExecutor(8) as pool:
        assert {answer.status for answer in pool.map(lambda n: one.predict(echo=n), range(80))} == {200}
    assert one.send("GET", "/ping").status == 200


def test_headers_that_are_too_large_are_refused(shared: Container) -> None:
    answer = shared.send("GET", "/ping?" + "x" * 40000)
    assert (answer.status, answer.headers["content-type"]) in [(431, PROBLEM), (414, PROBLEM)]


def test_a_final_refusal_has_no_retry_after(shared: Container) -> None:
    assert "retry-after" not in shared.predict().headers
    assert "retry-after" not in shared.send("GET", "/nothing").headers
