"""A Docker daemon's refusal is reported with a fix; a fake daemon answers in the real one's words."""

import http.server
import json
import threading
from collections.abc import Iterator

import pytest

from torchrelay.core.errors import DockerRefused, DockerUnavailable
from torchrelay.docker.daemon import daemon

CPUS = "Range of CPUs is from 0.01 to 2.00, as there are only 2 CPUs available"
DRIVER = 'could not select device driver "" with capabilities: [[gpu]]'


class Refusing(http.server.BaseHTTPRequestHandler):
    """A fake dockerd: it answers pings, and refuses every container in the real daemon's words."""

    reason = ""

    def do_GET(self) -> None:
        self._answer(200, {"ApiVersion": "1.41"})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._answer(400, {"message": self.reason})

    def _answer(self, status: int, body: dict[str, str]) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{server.server_address[1]}")
    yield f"127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(("reason", "fix"), [(CPUS, "resources.cpu"), (DRIVER, "NVIDIA"), ("something else", "daemon's log")])
def test_a_refusal_is_reported_with_its_fix(host: str, reason: str, fix: str) -> None:
    Refusing.reason = reason
    with pytest.raises(DockerRefused) as caught, daemon() as client:
        client.containers.create("image")
    assert host
    assert reason in caught.value.message
    assert fix in caught.value.fix


def test_no_daemon_is_another_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:9")
    with pytest.raises(DockerUnavailable), daemon():
        pass
