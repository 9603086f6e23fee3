"""Servers that stop a stage where a test needs it: a package index for the dependencies, a proxy before a registry."""

from __future__ import annotations

import hashlib
import http.client
import io
import ipaddress
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import docker

PACKAGE = "relay_test_words"
REQUIREMENT = f"{PACKAGE}==1.0\n"


def wheel(package: str = PACKAGE) -> bytes:
    """A small pure Python package."""
    info = f"{package}-1.0.dist-info"
    files = {
        f"{package}.py": "WORDS = 'zero one two three four five six seven eight nine'.split()\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"])
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, text in files.items():
            archive.writestr(zipfile.ZipInfo(name), text)
    return buffer.getvalue()


@dataclass
class Hold:
    """Requests wait for `go`; `reached` is set when one does."""

    go: threading.Event = field(default_factory=threading.Event)
    reached: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.go.set()

    def close(self) -> None:
        """Let requests wait from now on."""
        self.reached.clear()
        self.go.clear()

    def wait(self) -> None:
        """Wait while it is closed."""
        if not self.go.is_set():
            self.reached.set()
            self.go.wait(120)


@dataclass
class Index:
    """A package index for containers: the variables that name it, the requested paths, and its Hold."""

    env: dict[str, str]
    asked: list[str]
    hold: Hold


@contextmanager
def running(handler: type[BaseHTTPRequestHandler], host: str, **state: Any) -> Iterator[int]:
    """Serve until the block ends; yields the port. The server has `state` as attributes."""
    server: Any = ThreadingHTTPServer((host, 0), handler)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # clients are killed on purpose here
    vars(server).update(state)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        if "hold" in state:
            state["hold"].go.set()
        server.shutdown()
        server.server_close()
        thread.join()


class _IndexHandler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        state: Any = self.server
        state.asked.append(self.path)
        state.hold.wait()
        name = f"{PACKAGE}-1.0-py3-none-any.whl"
        content = wheel()
        link = f'<a href="/{name}#sha256={hashlib.sha256(content).hexdigest()}">{name}</a>'
        pages = {f"/simple/{PACKAGE.replace('_', '-')}/": link.encode(), f"/{name}": content}
        page = pages.get(self.path)
        self.send_response(200 if page is not None else 404)
        self.send_header("Content-Type", "text/html" if self.path.endswith("/") else "application/zip")
        self.send_header("Content-Length", str(len(page or b"")))
        self.end_headers()
        self.wfile.write(page or b"")

    def log_message(self, *_: Any) -> None:
        """Log nothing."""


@contextmanager
def package_index(client: docker.DockerClient) -> Iterator[Index]:
    """Serve the package on the address by which containers of the default network see this machine."""
    config = client.networks.get("bridge").attrs["IPAM"]["Config"][0]
    host = config.get("Gateway") or str(next(ipaddress.ip_network(config["Subnet"]).hosts()))
    asked: list[str] = []
    hold = Hold()
    with running(_IndexHandler, host, asked=asked, hold=hold) as port:
        yield Index({"PIP_INDEX_URL": f"http://{host}:{port}/simple/", "PIP_TRUSTED_HOST": host}, asked, hold)


class _ProxyHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _handle(self) -> None:
        state: Any = self.server
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.command == "PATCH":
            state.hold.wait()
        upstream = http.client.HTTPConnection(state.upstream)
        upstream.request(self.command, self.path, body=body, headers=dict(self.headers))
        answer = upstream.getresponse()
        content = answer.read()
        self.send_response(answer.status)
        for key, value in answer.getheaders():
            if key.lower() not in ("transfer-encoding", "content-length", "connection"):
                self.send_header(key, value)
        length = answer.getheader("Content-Length", "0") if self.command == "HEAD" else str(len(content))
        self.send_header("Content-Length", length)
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = _handle  # noqa: N815 -- http.server's names

    def log_message(self, *_: Any) -> None:
        """Log nothing."""


@contextmanager
def registry_proxy(upstream: str) -> Iterator[tuple[str, Hold]]:
    """Pass everything on to a registry, but hold uploads while the Hold is closed."""
    hold = Hold()
    with running(_ProxyHandler, "127.0.0.1", upstream=upstream, hold=hold) as port:
        yield f"127.0.0.1:{port}", hold
