"""Diff against a real HTTP server: only this server gets requests, and an unreachable server is not a failure."""

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import messages
from tests.errors import fails
from tests.integration import bundles
from tests.integration.conftest import free_port
from tests.integration.test_bundle import run
from torchrelay.core.errors import InputsInvalid, NotVerified
from torchrelay.core.workspace import Workspace
from torchrelay.oci.image import save_image
from torchrelay.stages import diff
from torchrelay.verification import kept_answers
from torchrelay.verification.prober import ProbeAnswer

ANSWERS: dict[str, tuple[int, bytes]] = {
    "json": (200, b'{"a": [0.5, NaN], "\\u00fc": null}'),
    "text": (200, "caf\u00e9 \U0001f600".encode()),
    "bytes": (200, b"\x00\xff\xfe"),
    "status": (422, b"no"),
}
BODIES = {b"[1, 2]": "json", b"x": "text", b"\xff\x00": "bytes", b"null": "status"}


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers each sample as its server's `live` says, and remembers every request."""

    def do_POST(self) -> None:
        state: Any = self.server
        name = BODIES[self.rfile.read(int(self.headers["Content-Length"]))]
        state.seen.append((name, self.path))
        status, body = state.live[name]
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if status == 302:
            self.send_header("Location", state.elsewhere)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def live() -> Iterator[Any]:
    server: Any = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.live, server.seen, server.elsewhere = dict(ANSWERS), [], ""
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    result = bundles.verified_model(tmp_path / "model")
    came = {name: ProbeAnswer(name, status, "", body, 1.0, None) for name, (status, body) in ANSWERS.items()}
    kept_answers.save(Workspace(tmp_path / "model"), result.config_digest, came)
    return tmp_path / "model"


def url(server: Any) -> str:
    return f"http://127.0.0.1:{server.server_address[1]}"


def test_the_live_model_gives_the_same_answers(live: Any, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # diff ignores the machine's proxy
    result = diff.run(model, url(live))
    assert (result.reachable, [row.same for row in result.samples]) == (True, [True] * 4)
    assert sorted(live.seen) == sorted((name, "/predictions/digits") for name in ANSWERS)
    assert json.loads(Workspace(model).diff.read_text()) == result.summary()


def test_the_command_reports_the_differences(live: Any, model: Path) -> None:
    live.live["json"] = (200, b'{"a": [0.75, NaN], "\\u00fc": null}')
    live.live["text"] = (500, b"oops")
    done = run("diff", model, "--live-url", url(live), "--json")
    assert done.returncode == 0, done.stderr
    reply = json.loads(done.stdout)
    assert {row["name"]: row["differences"] for row in reply["samples"] if not row["same"]} == {
        "json": ["$.a[0]: 0.75, now 0.5"],
        "text": ["status: 500, now 200"],
    }
    assert reply["changed"] == 2
    assert json.loads(Workspace(model).stages.read_text())[-1]["said"] == "2 of 4 answers differ"
    shown = run("diff", model, TORCHRELAY_LIVE_URL=url(live)).stdout
    assert "2 of 4 answers differ" in shown
    assert "json: $.a[0]: 0.75, now 0.5" in shown


def test_a_redirect_is_followed_nowhere(live: Any, model: Path) -> None:
    live.live = dict.fromkeys(ANSWERS, (302, b""))
    live.elsewhere = url(live) + "/stolen"
    result = diff.run(model, url(live))
    assert {row.status_live for row in result.samples} == {302}
    assert {path for _, path in live.seen} == {"/predictions/digits"}


def test_an_unreachable_server_is_not_a_failure(model: Path) -> None:
    done = run("diff", model, "--live-url", f"http://127.0.0.1:{free_port()}", "--json")
    assert done.returncode == 0, done.stderr
    reply = json.loads(done.stdout)
    assert (reply["reachable"], reply["samples"]) == (False, [])
    assert "ConnectionError" in reply["reason"]


def test_errors_without_a_comparison(model: Path) -> None:
    with fails(InputsInvalid, "input live-url"):
        diff.run(model, "file:///etc/passwd")
    (model / "samples/more.json").write_text('{"request": {"json": 1}, "expect": {"json": 1}}')
    with fails(NotVerified, words=messages.NO_ANSWERS):
        diff.run(model, "http://127.0.0.1:9")
    (model / "samples/more.json").unlink()
    layers = [bundles.layer("runtime", b"other", 5)]
    save_image(Workspace(model).image_record, bundles.image_of(layers))
    with fails(NotVerified, words=messages.NO_ANSWERS):
        diff.run(model, "http://127.0.0.1:9")
