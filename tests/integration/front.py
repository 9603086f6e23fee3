"""A real nginx with the front's configuration, before a small server that records what reaches it."""

from __future__ import annotations

import dataclasses
import http.client
import json
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from torchrelay_runtime import front as runtime_front
from torchrelay_runtime.nginx import Front
from torchrelay_runtime.state import Status, write_status

PREDICT = "/predictions/digits"
MIB = 1 << 20


@dataclasses.dataclass
class Upstream:
    """Answers what it got, as JSON; `hold` keeps every answer back while it is clear."""

    port: int = 0
    requests: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    hold: threading.Event = dataclasses.field(default_factory=threading.Event)

    @property
    def seen(self) -> int:
        return len(self.requests)


@contextmanager
def upstream() -> Iterator[Upstream]:
    record = Upstream()
    record.hold.set()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            seen = {
                "method": self.command,
                "path": self.path,
                "size": len(body),
                "headers": {name.lower(): value for name, value in self.headers.items()},
            }
            record.requests.append(seen)
            record.hold.wait(60)
            content = json.dumps(seen).encode()
            self.send_response(503 if self.headers.get("x-want") == "503" else 200)
            self.send_header("Content-Type", "application/json")
            self.send_header("X-Request-Id", "the server's own")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_DELETE = answer  # noqa: N815 -- http.server's names

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    record.port = server.server_address[1]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield record
    finally:
        record.hold.set()
        server.shutdown()
        server.server_close()


@dataclasses.dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def ask(port: int, method: str, path: str, body: bytes = b"", **headers: str) -> Answer:
    """One request; an underscore in a header's name is a hyphen."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path, body or None, {name.replace("_", "-"): value for name, value in headers.items()})
        response = connection.getresponse()
        return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, response.read())
    finally:
        connection.close()


@dataclasses.dataclass
class RunningFront:
    """nginx, the server behind it, and where nginx writes."""

    config: Front
    server: Upstream
    output: Path
    errors: Path

    def send(self, method: str, path: str, body: bytes = b"", **headers: str) -> Answer:
        return ask(self.config.port, method, path, body, **headers)

    def metrics(self, method: str, path: str) -> Answer:
        return ask(self.config.metrics_port, method, path)

    def open(self, head: str, address: str = "127.0.0.1") -> socket.socket:
        """Send a request's head, and leave the rest to the caller. `address`: of the client, in 127.0.0.0/8."""
        connection = socket.create_connection(("127.0.0.1", self.config.port), timeout=30, source_address=(address, 0))
        connection.sendall(head.replace("\n", "\r\n").encode())
        return connection

    def log(self) -> list[dict[str, Any]]:
        """The access log's lines so far; nginx writes them within a second."""
        time.sleep(1.5)
        return [json.loads(line) for line in self.output.read_text().splitlines()]


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextmanager
def running(folder: Path, **changes: Any) -> Iterator[RunningFront]:
    """Start nginx with a front of one model; `changes`: fields of `Front`."""
    state = folder / "state"
    state.mkdir(parents=True)
    write_status(state, Status(ready=True, reason="ready"))
    with upstream() as server:
        paths = (PREDICT, f"{PREDICT}/", "/invocations")
        config = dataclasses.replace(
            Front(
                state=state,
                bind="127.0.0.1",
                port=free_port(),
                inference=f"127.0.0.1:{server.port}",
                max_body_bytes=MIB,
                body_budget=4 * MIB,
                routes=tuple((path, PREDICT) for path in paths),
                health=("/ping",),
                metrics=(f"127.0.0.1:{server.port}", "/metrics"),
                metrics_port=free_port(),
                access_log=True,
                as_root=True,
                neutral=True,
            ),
            **changes,
        )
        runtime_front.prepare(config)
        output, errors = folder / "output", folder / "errors"
        with output.open("wb") as out, errors.open("wb") as err:
            process = subprocess.Popen(runtime_front.command(state), stdout=out, stderr=err)
        try:
            deadline = time.monotonic() + 20
            while runtime_front.ask(state, "/generation") is None:
                assert process.poll() is None, errors.read_text()
                assert time.monotonic() < deadline, errors.read_text()
                time.sleep(0.02)
            yield RunningFront(config, server, output, errors)
        finally:
            process.terminate()
            process.wait(20)
