"""A registry that sends an upload to another host: credentials stay at the registry itself."""

import http.server
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.errors import fails
from torchrelay.core.errors import RegistryError
from torchrelay.core.progress import Quiet
from torchrelay.oci.blobs import from_bytes
from torchrelay.oci.registry import Registry

CHALLENGE = {"WWW-Authenticate": 'Basic realm="x"'}


@dataclass
class Host:
    """An HTTP server that answers as its `replies` say and records what it received."""

    address: str = ""
    replies: dict[str, tuple[int, dict[str, str]]] = field(default_factory=dict)
    received: list[tuple[str, str | None]] = field(default_factory=list)


@pytest.fixture
def hosts() -> Iterator[list[Host]]:
    """Two servers; each is another host to the other, because a port is part of it."""
    running = []
    for host in (Host(), Host()):

        class Handler(http.server.BaseHTTPRequestHandler):
            owner = host

            def _handle(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                self.owner.received.append((self.command, self.headers.get("Authorization")))
                status, headers = self.owner.replies[self.command]
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", "0")
                self.end_headers()

            do_HEAD = do_POST = do_PATCH = do_PUT = do_DELETE = _handle  # noqa: N815 -- http.server's names

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        host.address = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        running.append((server, host))
    yield [host for _, host in running]
    for server, _ in running:
        server.shutdown()
        server.server_close()


def upload(registry: Registry) -> None:
    with Quiet().task("", None) as task:
        registry.put_blob("models/digits", from_bytes(b"layer"), task)


def client(host: Host) -> Registry:
    registry = Registry(host.address, credentials=lambda _: ("user", "secret"), sleep=lambda _: None)
    registry._authenticate(Challenge())  # type: ignore[arg-type] # as after the first 401
    return registry


class Challenge:
    headers = CHALLENGE


def test_another_host_gets_the_bytes_without_the_password(hosts: list[Host]) -> None:
    registry, other = hosts
    registry.replies = {"POST": (202, {"Location": f"{other.address}/upload"})}
    other.replies = {"PATCH": (202, {"Location": f"{other.address}/upload?part=1"}), "PUT": (201, {})}
    upload(client(registry))
    assert registry.received[0][1] is not None, "control: the registry itself gets it"
    assert other.received == [("PATCH", None), ("PUT", None)]


def test_another_host_cannot_ask_for_the_password(hosts: list[Host]) -> None:
    registry, other = hosts
    registry.replies = {"POST": (202, {"Location": f"{other.address}/upload"})}
    other.replies = {"PATCH": (401, CHALLENGE)}
    with fails(RegistryError, "401"):
        upload(client(registry))
    assert {authorization for _, authorization in other.received} == {None}


def test_a_redirect_to_another_host_cannot_ask_for_the_password(hosts: list[Host]) -> None:
    registry, other = hosts
    registry.replies = {"HEAD": (307, {"Location": f"{other.address}/blob"})}
    other.replies = {"HEAD": (401, CHALLENGE)}
    asked: list[str] = []
    anonymous = Registry(registry.address, credentials=lambda host: asked.append(host) or ("user", "secret"))  # type: ignore[func-returns-value] # records
    with fails(RegistryError, "401"):
        anonymous.has_blob("models/digits", "sha256:" + "0" * 64)
    assert {authorization for _, authorization in other.received} == {None}
    assert asked == []


@pytest.mark.parametrize("location", ["http://host.example/upload", "http://127.0.0.1.evil.example/upload", "ftp://host.example/x"])
def test_an_upload_over_plain_http_is_refused(location: str) -> None:
    class Answer:
        status_code = 202
        headers = {"Location": location}  # noqa: RUF012 -- a stand-in

    with fails(RegistryError, "is not https"):
        Registry("https://host.example")._location(Answer())  # type: ignore[arg-type] # a stand-in


def test_the_location_of_an_upload_may_be_relative() -> None:
    class Answer:
        status_code = 202
        headers = {"Location": "/v2/x/blobs/uploads/1?state=s"}  # noqa: RUF012 -- a stand-in

    answer: Any = Answer()
    assert Registry("https://host.example")._location(answer) == "https://host.example/v2/x/blobs/uploads/1?state=s"
