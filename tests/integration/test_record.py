"""`samples record` fills in missing answers and leaves the others unchanged, unless --all is given."""

import http.server
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from torchrelay.authoring.init import InitOptions, init


class Answering(http.server.BaseHTTPRequestHandler):
    """A stand-in for a running model, with the same answer to every prediction."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(b"[9, 8, 7]")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def url() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answering)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def record(model_dir: Path, url: str, *flags: str) -> dict[str, object]:
    command = [sys.executable, "-m", "torchrelay", "samples", "record", str(model_dir), "--url", url, "--json", *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout))


def test_only_missing_answers_are_filled_in(tmp_path: Path, url: str) -> None:
    init(tmp_path, InitOptions(name="m"))
    golden = (tmp_path / "samples" / "example.json").read_text()
    (tmp_path / "samples" / "new.json").write_text('{"request": {"json": [1, 2, 3, 4]}}')
    assert record(tmp_path, url)["recorded"] == 1
    assert json.loads((tmp_path / "samples" / "new.json").read_text())["expect"] == {"json": [9, 8, 7]}
    assert (tmp_path / "samples" / "example.json").read_text() == golden
    assert record(tmp_path, url)["recorded"] == 0
    assert record(tmp_path, url, "--all")["recorded"] == 2
    assert (tmp_path / "samples" / "example.json").read_text() != golden
