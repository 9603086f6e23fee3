"""A real HTTP server on loopback that serves one file, and misbehaves on request, once per request."""

import hashlib
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Behaviour = Callable[["Handler"], None]


@dataclass
class WeightsServer:
    """What is served, what was asked, and how the next requests go (then: as a good server does)."""

    content: bytes
    url: str = ""
    etag: str = ""
    ranges: bool = True
    extra: dict[str, str] = field(default_factory=dict)
    next: list[Behaviour] = field(default_factory=list)
    asked: list[dict[str, str]] = field(default_factory=list)
    port: int = 0

    def current_etag(self) -> str:
        return self.etag or f'"{hashlib.md5(self.content, usedforsecurity=False).hexdigest()}"'


class Handler(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    owner: WeightsServer

    def do_GET(self) -> None:
        self.owner.asked.append({"path": self.path} | {name.lower(): value for name, value in self.headers.items()})
        if self.owner.next:
            self.owner.next.pop(0)(self)
        else:
            self.good()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self.do_GET()

    def good(self, upto: int | None = None, **headers: str) -> None:
        """Answer as a good server; `upto` bytes of the body at most, then the connection is closed."""
        content, start, status = self.owner.content, 0, 200
        end = len(content)
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        fits = self.headers.get("If-Range") in (None, self.owner.current_etag())
        if asked and fits and self.owner.ranges:
            start, status = int(asked[1]), 206
            end = min(end, int(asked[2] or end - 1) + 1)
        self.send_response(status)
        self.send_header("Content-Length", str(end - start))
        if self.owner.current_etag() != "none":
            self.send_header("ETag", self.owner.current_etag())
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(content)}")
        for name, value in (self.owner.extra | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        body = content[start:end] if upto is None else content[start : min(end, start + upto)]
        self.wfile.write(body)
        if upto is not None:
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        pass


def status(code: int, body: bytes = b"no", **headers: str) -> Behaviour:
    """Answer with a status."""

    def behave(handler: Handler) -> None:
        handler.send_response(code)
        handler.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)

    return behave


def truncated(upto: int) -> Behaviour:
    """End the connection in good order after `upto` bytes of the body."""
    return lambda handler: handler.good(upto=upto)


def reset(upto: int) -> Behaviour:
    """Reset the connection (RST) after `upto` bytes of the body."""

    def behave(handler: Handler) -> None:
        handler.good(upto=upto)
        handler.wfile.flush()
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        handler.connection.close()

    return behave


@contextmanager
def serving(content: bytes) -> Iterator[WeightsServer]:
    """Run a server on a free port until the block ends."""
    owner = WeightsServer(content)
    handler = type("Bound", (Handler,), {"owner": owner})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # type: ignore[method-assign] # resets are made on purpose here
    owner.port = server.server_address[1]
    owner.url = f"http://127.0.0.1:{owner.port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield owner
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
