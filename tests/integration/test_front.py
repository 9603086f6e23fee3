"""The front: a real nginx with our configuration, before a server that records what reaches it (a stand-in for TorchServe)."""

from __future__ import annotations

import gzip
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.front import MIB, PREDICT, RunningFront, running
from torchrelay_runtime import nginx

PROBLEM = "application/problem+json"
HEAD = f"POST {PREDICT} HTTP/1.1\nHost: x\n"


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningFront]:
    with running(tmp_path_factory.mktemp("front")) as one:
        yield one


def read(connection: socket.socket) -> bytes:
    """All that comes until the connection is closed; nginx resets one whose body never comes, some seconds after its answer."""
    pieces = b""
    try:
        while piece := connection.recv(65536):
            pieces += piece
    except ConnectionResetError:
        if not pieces:
            raise
    return pieces


def wait_for(what: str, look: object, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not look():  # type: ignore[operator] # a function
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


# Content types and queries


@pytest.mark.parametrize(
    "kind", ["application/json", "multipart/form-data; boundary=A", "multipart/form-dataX; boundary=A", "MULTIPART/x", "a\tb", ""]
)
def test_the_server_sees_one_content_type(front: RunningFront, kind: str) -> None:
    """Netty's form parser (CVE-2024-29025) takes all that begins with multipart/form-data."""
    headers = front.send("POST", PREDICT, b"x", content_type=kind).json["headers"]
    assert headers["content-type"] == "application/octet-stream"
    assert headers["x-torchrelay-content-type"] == f"={kind}"


def test_a_client_cannot_send_the_fronts_own_headers(front: RunningFront) -> None:
    sent = {"x_torchrelay_content_type": "=text/csv", "x_torchrelay_request": "0" * 32, "x_forwarded_for": "8.8.8.8"}
    headers = front.send("POST", PREDICT, b"x", content_type="text/plain", **sent).json["headers"]
    assert headers["x-torchrelay-content-type"] == "=text/plain"
    assert headers["x-torchrelay-request"] != "0" * 32
    assert headers["x-forwarded-for"] == "127.0.0.1"


@pytest.mark.parametrize("query", ["?body=[1]", "?data=x", "?a=%00&model_name=other", "?"])
def test_no_query_reaches_the_server(front: RunningFront, query: str) -> None:
    for path in (PREDICT, f"{PREDICT}/", "/invocations"):
        assert front.send("POST", path + query, b"x").json["path"] == PREDICT


def test_the_servers_form_parser_is_for_its_own_types_where_handlers_expect_it(tmp_path: Path) -> None:
    """An archive with an unknown handler gets bodies as stock TorchServe hands them over."""
    with running(tmp_path, neutral=False) as front:
        for kind, wanted in (
            ("multipart/form-data; boundary=A", "multipart/form-data; boundary=A"),
            ("multipart/form-dataX; boundary=A", "application/octet-stream"),
            ("application/json", "application/json"),
        ):
            assert front.send("POST", PREDICT, b"x", content_type=kind).json["headers"]["content-type"] == wanted


# The public surface


def test_metrics_have_a_separate_port(front: RunningFront) -> None:
    assert front.send("GET", "/metrics").status == 404
    assert front.metrics("GET", "/metrics").status == 200
    for method in ("POST", "DELETE", "PUT"):
        answer = front.metrics(method, "/metrics")
        assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")
    assert front.metrics("GET", PREDICT).status == 404


def test_a_trailing_slash_is_answered(front: RunningFront) -> None:
    assert front.send("POST", f"{PREDICT}/", b"{}").status == 200
    assert front.send("POST", f"{PREDICT}//", b"{}").status in (200, 404)
    assert front.send("POST", f"{PREDICT}/x", b"{}").status == 404


def test_the_access_log_says_what_happened_and_no_body_and_no_query(tmp_path: Path) -> None:
    with running(tmp_path) as front:
        answer = front.send("POST", f"{PREDICT}?secret=1", b"private", x_request_id="client-7")
        front.send("DELETE", "/else?secret=2")
        front.send("GET", "/ping")
        lines = front.log()
    assert answer.headers["x-request-id"] == "client-7"
    assert [(line["method"], line["route"], line["status"]) for line in lines] == [("POST", PREDICT, 200), ("DELETE", "", 404)]
    assert lines[0].keys() == {"time", "request_id", "client", "method", "route", "status", "bytes_in", "bytes_out", "ms"}
    assert (lines[0]["request_id"], lines[0]["client"]) == ("client-7", "127.0.0.1")
    assert 0 <= lines[0]["ms"] < 20_000
    text = (tmp_path / "output").read_text()
    assert "secret" not in text
    assert "private" not in text


def test_the_request_id_is_the_clients_own_if_it_is_harmless(front: RunningFront) -> None:
    for sent in ("a" * 65, 'x"y', "a b", ""):
        answer = front.send("POST", PREDICT, b"x", x_request_id=sent)
        assert answer.headers["x-request-id"] == answer.json["headers"]["x-request-id"] != sent
        assert len(answer.headers["x-request-id"]) == 32
    refused = front.send("POST", "/nothing", b"x", x_request_id="mine")
    assert refused.headers["x-request-id"] == "mine"


def test_the_client_is_the_one_that_a_trusted_proxy_names(tmp_path: Path) -> None:
    with running(tmp_path, trusted_proxies=("127.0.0.0/8", "10.0.0.0/8")) as front:
        seen = front.send("POST", PREDICT, b"x", x_forwarded_for="6.6.6.6, 198.51.100.7, 10.1.2.3").json
        assert seen["headers"]["x-forwarded-for"] == "198.51.100.7", "what is left of it the client itself wrote"
        assert front.log()[0]["client"] == "198.51.100.7"


# Refusals


@pytest.mark.parametrize(
    ("request_text", "status"),
    [
        ("BREW / HTTP/1.1\nHost: x\n\n", 404),
        (f"TRACE {PREDICT} HTTP/1.1\nHost: x\n\n", 405),
        (f"DELETE {PREDICT} HTTP/1.1\nHost: x\n\n", 405),
        (f"POST {PREDICT} HTTP/1.1\nHost: x\nTransfer-Encoding: gzip\n\n", 501),
        (f"POST {PREDICT} HTTP/3.0\nHost: x\n\n", 505),
        (f"GET /ping HTTP/1.1\nHost: x\nX: {'x' * 40000}\n\n", 431),
        (f"GET /{'x' * 40000} HTTP/1.1\nHost: x\n\n", 414),
        ("GET /ping HTTP/1.1\n\n", 400),
        ("nonsense\n\n", 400),
        (f"POST {PREDICT} HTTP/1.1\nHost: x\nContent-Length: 99999999\n\n", 413),
        (f"POST {PREDICT} HTTP/1.1\nHost: x\nContent-Length: -1\n\n", 400),
        ("POST /ping HTTP/1.1\nHost: x\nContent-Length: 0\n\n", 405),
    ],
)
def test_every_refusal_is_a_problem_document(front: RunningFront, request_text: str, status: int) -> None:
    with front.open(request_text) as connection:
        head, _, body = read(connection).partition(b"\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {status} ".encode()), head
    assert f"Content-Type: {PROBLEM}".encode() in head
    assert {"type", "title", "status", "detail"} == json.loads(body).keys()
    assert json.loads(body)["status"] == status
    assert (b"\r\nAllow: " in head) == (status == 405)


def test_http_1_0_without_a_host_is_answered(tmp_path: Path) -> None:
    """By the front of the docker target too, whose upstream is another front: it wants a Host."""
    with running(tmp_path / "a") as model, running(tmp_path / "b", routes=(), inference=f"127.0.0.1:{model.config.port}") as front:
        for one in (model, front):
            with one.open(f"POST {PREDICT} HTTP/1.0\nContent-Length: 2\n\n{{}}") as connection:
                assert read(connection).startswith(b"HTTP/1.1 200 ")


def test_a_503_of_the_server_gets_retry_after(front: RunningFront) -> None:
    assert front.send("POST", PREDICT, b"x", x_want="503").headers["retry-after"] == "1"
    assert "retry-after" not in front.send("POST", PREDICT, b"x").headers


# Bodies


def test_bodies_of_every_kind_arrive_whole(tmp_path: Path) -> None:
    with running(tmp_path) as front:
        _send_bodies(front)
        assert front.errors.read_text() == "", "no line for ordinary requests"


def _send_bodies(front: RunningFront) -> None:
    for size in (0, 1, nginx.SMALL_BODY, nginx.SMALL_BODY + 1, MIB):
        assert front.send("POST", PREDICT, b"x" * size).json["size"] == size
    chunks = (b"x" * 10_000 for _ in range(50))
    with front.open(HEAD + "Transfer-Encoding: chunked\nConnection: close\n\n") as connection:
        for chunk in chunks:
            connection.sendall(b"%x\r\n%s\r\n" % (len(chunk), chunk))
        connection.sendall(b"0\r\n\r\n")
        body = read(connection).partition(b"\r\n\r\n")[2]
    seen = json.loads(body)
    assert seen["size"] == 500_000
    assert seen["headers"]["content-length"] == "500000"


@pytest.mark.parametrize(
    "framing", ["Content-Length: 1000", "Transfer-Encoding: chunked", "Content-Length: 1000\nExpect: 100-continue"]
)
def test_a_body_that_drips_ends_as_408(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, framing: str) -> None:
    """Control: with nginx's own time-out alone, a byte now and then keeps the connection for ever."""
    monkeypatch.setattr(nginx, "BODY_S", 2)
    monkeypatch.setattr(nginx, "BODY_RATE", MIB)
    with running(tmp_path) as front, front.open(f"{HEAD}{framing}\n\n") as connection:
        connection.settimeout(0.5)
        answer, began = b"", time.monotonic()
        while time.monotonic() < began + 30 and b" 408 " not in answer:
            try:
                answer += connection.recv(4096)
            except TimeoutError:
                connection.sendall(b"1" if "chunked" in framing else b"x")
        assert b"HTTP/1.1 408 Request Time-out" in answer
        assert f"Content-Type: {PROBLEM}".encode() in answer
        assert front.server.seen == 0


def test_slow_clients_take_no_place_from_others(tmp_path: Path) -> None:
    """The attack: as many connections as places, each with a body that never ends. Control: count before the body has arrived."""
    with running(tmp_path) as front:
        slow = [front.open(f"{HEAD}Content-Length: 1000\n\nx", address="127.0.0.2") for _ in range(nginx.REQUESTS)]
        try:
            wait_for("the limit of one address", lambda: sum(1 for line in front.log() if line["status"] == 503) > 200)
            assert [front.send("POST", PREDICT, b"{}").status for _ in range(20)] == [200] * 20
            with front.open(f"{HEAD}Content-Length: 2\nConnection: close\n\n{{}}", address="127.0.0.2") as connection:
                assert read(connection).startswith(b"HTTP/1.1 503 "), "this address has all it may have"
        finally:
            for one in slow:
                one.close()
        wait_for("the places to be free again", lambda: _status(front, "127.0.0.2") == 200)


def _status(front: RunningFront, address: str) -> int:
    with front.open(f"{HEAD}Content-Length: 2\nConnection: close\n\n{{}}", address=address) as connection:
        return int(read(connection).split()[1])


def test_bodies_in_flight_have_a_budget(tmp_path: Path) -> None:
    with running(tmp_path) as front:
        front.server.hold.clear()
        body = "x" * MIB
        waiting = [front.open(f"{HEAD}Content-Length: {MIB}\nConnection: close\n\n{body}") for _ in range(3)]
        wait_for("three bodies at the server", lambda: front.server.seen == 3)
        refused = front.send("POST", PREDICT, b"x" * (nginx.SMALL_BODY + 1))
        assert (refused.status, refused.headers["retry-after"], refused.headers["content-type"]) == (503, "1", PROBLEM)
        assert front.send("GET", "/ping").status == 200
        with front.open(f"{HEAD}Content-Length: 2\nConnection: close\n\n{{}}") as small:
            wait_for("a small body at the server, for which a part is reserved", lambda: front.server.seen == 4)
            front.server.hold.set()
            assert read(small).split()[1] == b"200"
        assert [read(one).split()[1] for one in waiting] == [b"200"] * 3
        assert front.send("POST", PREDICT, b"x" * MIB).status == 200, "the budget is free again"


def test_the_number_of_requests_in_flight_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nginx, "REQUESTS", 8)
    with running(tmp_path) as front:
        front.server.hold.clear()
        waiting = [front.open(f"{HEAD}Content-Length: 2\nConnection: close\n\n{{}}") for _ in range(8)]
        wait_for("eight requests at the server", lambda: front.server.seen == 8)
        assert front.send("POST", PREDICT, b"{}").status == 503
        front.server.hold.set()
        assert {read(one).split()[1] for one in waiting} == {b"200"}
        assert front.send("POST", PREDICT, b"{}").status == 200


def test_large_bodies_that_arrive_slowly_leave_small_ones_alone(tmp_path: Path) -> None:
    with running(tmp_path) as front:
        slow = [
            front.open(f"{HEAD}Content-Length: {MIB}\n\nx", address=f"127.0.0.{host}") for host in range(2, 8) for _ in range(4)
        ]
        wait_for("the limit of bytes that arrive", lambda: any(line["status"] == 503 for line in front.log()))
        assert front.send("POST", PREDICT, b"x" * MIB).status == 503
        assert front.send("POST", PREDICT, b"x" * nginx.SMALL_BODY).status == 200
        for one in slow:
            one.close()


def test_a_client_that_leaves_is_noted_for_the_worker(tmp_path: Path) -> None:
    with running(tmp_path) as front:
        front.server.hold.clear()
        leaving = front.open(f"{HEAD}Content-Length: 2\n\n{{}}")
        wait_for("the request at the server", lambda: front.server.seen == 1)
        leaving.close()
        folder = front.config.state / "cancelled"
        wait_for("the note", lambda: list(folder.iterdir()))
        assert [path.name for path in folder.iterdir()] == [front.server.requests[0]["headers"]["x-torchrelay-request"]]
        front.server.hold.set()
        assert front.send("POST", PREDICT, b"{}").status == 200
        assert len(list(folder.iterdir())) == 1, "answered requests leave no note"


def test_a_compressed_body_is_passed_on_as_it_is(front: RunningFront) -> None:
    """The handler library decides; the front neither unpacks it nor hides its encoding."""
    body = gzip.compress(b"{}")
    seen = front.send("POST", PREDICT, body, content_encoding="gzip").json
    assert (seen["size"], seen["headers"]["content-encoding"]) == (len(body), "gzip")
