"""The prober over HTTP: an answer is read only up to a limit."""

import threading
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from torchrelay.verification import prober
from torchrelay.verification.prober import HttpProber, ProbeRequest


class Endless(BaseHTTPRequestHandler):
    """Answers until its reader goes away, at most 64 MiB."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))  # closing a connection with unread bytes resets it
        self.send_response(200)
        self.end_headers()
        with suppress(OSError):
            for _ in range(1024):
                self.wfile.write(bytes(1 << 16))

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Endless) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(("limit", "error"), [(1 << 20, "the answer is larger than 1048576 bytes"), (64 << 20, None)])
def test_an_answer_is_read_up_to_its_limit(url: str, limit: int, error: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prober, "MAX_ANSWER_BYTES", limit)
    (answer,) = HttpProber(url).send([ProbeRequest("s", "POST", "/", "", b"x")], 1, 30.0)
    assert (answer.error, len(answer.body)) == (error, 0 if error else 64 << 20)
