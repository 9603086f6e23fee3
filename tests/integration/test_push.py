"""Push to a real registry: only missing blobs are sent, only the verified image is pushed, and failures are retried."""

import hashlib
import http.client
import http.server
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
import requests

from tests import messages
from tests.errors import fails
from torchrelay.core.errors import NotVerified, RegistryError
from torchrelay.core.progress import Quiet
from torchrelay.core.workspace import Workspace
from torchrelay.oci.image import MANIFEST_TYPE, Image, save_image
from torchrelay.oci.layers import Layer, LayerFile, tar_layer
from torchrelay.oci.reference import parse_reference
from torchrelay.oci.registry import Registry
from torchrelay.stages import push
from torchrelay.stages.push import push_image
from torchrelay.verification.verdict import Verdict, save_verdict


def layer(name: str, content: bytes) -> Layer:
    with Quiet().task("", None) as task:
        return tar_layer([LayerFile(name, content, len(content))], name, task)


def image(handler: bytes = b"v1") -> Image:
    layers = (layer("runtime", b"r" * 300_000), layer("weights", bytes(range(256)) * 4000), layer("handler.py", handler))
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Labels": {"org.opencontainers.image.version": "1.0"}},
        "rootfs": {"type": "layers", "diff_ids": [one.diff_id for one in layers]},
        "history": [],
    }
    return Image(config, layers, {})


def anonymous(_host: str) -> None:
    return None


def client(host: str, **more: Any) -> Registry:
    return Registry(f"http://{host}", credentials=anonymous, **more)


def test_a_second_push_moves_nothing_and_an_edit_moves_its_own_layer(registry_host: str) -> None:
    target = parse_reference(f"{registry_host}/second-push", "1.0")
    registry = client(registry_host)
    first = push_image(image(), registry, target, Quiet())
    assert first.blobs == 4
    assert push_image(image(), registry, target, Quiet()).bytes == 0
    edited = push_image(image(b"v2"), registry, target, Quiet())
    assert edited.blobs == 2  # the handler's layer and the config
    assert edited.bytes < 20_000


def test_the_registry_serves_the_built_image(registry_host: str) -> None:
    built = image()
    target = parse_reference(f"{registry_host}/same", "1.0")
    pushed = push_image(built, client(registry_host), target, Quiet())
    manifest = requests.get(
        f"http://{registry_host}/v2/same/manifests/{pushed.digest}", headers={"Accept": MANIFEST_TYPE}, timeout=5
    )
    assert "sha256:" + hashlib.sha256(manifest.content).hexdigest() == built.digest
    assert manifest.json()["config"]["digest"] == built.config_digest
    for described in manifest.json()["layers"]:
        blob = requests.get(f"http://{registry_host}/v2/same/blobs/{described['digest']}", timeout=5).content
        assert "sha256:" + hashlib.sha256(blob).hexdigest() == described["digest"]


def record(model_dir: Path, built: Image, *, config: str, result: Literal["passed", "gate_failed"] = "passed") -> None:
    workspace = Workspace(model_dir)
    workspace.ensure()
    save_image(workspace.image_record, built)
    save_verdict(
        workspace,
        Verdict(result=result, model="m", version="1.0", image=built.digest, config=config, samples_digest="",
            conditions="", concurrency=1,
                ready_s=1, load_s=0, total_s=1, samples=[]),
    )  # fmt: skip


def test_only_a_verified_image_is_pushed(registry_host: str, tmp_path: Path) -> None:
    built = image()
    with fails(NotVerified, words=messages.NO_IMAGE):
        push.run(tmp_path, f"{registry_host}/verified", Quiet())
    record(tmp_path, built, config=built.config_digest, result="gate_failed")
    with fails(NotVerified, words=messages.GATE_FAILED):
        push.run(tmp_path, f"{registry_host}/verified", Quiet())
    record(tmp_path, built, config=image(b"another").config_digest)
    with fails(NotVerified, words=messages.OTHER_VERDICT):
        push.run(tmp_path, f"{registry_host}/verified", Quiet())
    assert client(registry_host).manifest_digest("verified", "1.0") is None
    record(tmp_path, built, config=built.config_digest)
    assert push.run(tmp_path, f"{registry_host}/verified", Quiet()).digest == built.digest
    assert client(registry_host).manifest_digest("verified", "1.0") == built.digest


class Flaky(http.server.BaseHTTPRequestHandler):
    """A proxy before the real registry that fails as its server's `faults` say, then passes requests on."""

    protocol_version = "HTTP/1.1"

    def _handle(self) -> None:
        state: Any = self.server
        length = int(self.headers.get("Content-Length", 0))
        state.patches += self.command == "PATCH"
        fault = state.faults.pop(0) if state.faults and self.command == state.method else None
        if fault == "reset":
            self.rfile.read(min(length, 1000))
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
            return
        body = self.rfile.read(length)
        if fault is not None:
            self.send_response(fault)
            self.send_header("Retry-After", "7")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        lost = state.lost.pop(0) if state.lost and self.command == state.method else False
        upstream = http.client.HTTPConnection(state.upstream)
        upstream.request(self.command, self.path, body=body, headers=dict(self.headers))
        answer = upstream.getresponse()
        content = answer.read()
        if lost:  # done, and nobody hears of it
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
            return
        self.send_response(answer.status)
        for key, value in answer.getheaders():
            if key.lower() not in ("transfer-encoding", "content-length", "connection"):
                self.send_header(key, value)
        self.send_header("Content-Length", answer.getheader("Content-Length", "0") if self.command == "HEAD" else str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = _handle  # noqa: N815 -- http.server's names

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def flaky(registry_host: str) -> Iterator[Any]:
    server: Any = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Flaky)
    server.upstream, server.faults, server.lost, server.method = registry_host, [], [], "PATCH"
    server.patches = 0
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("method", ["HEAD", "POST", "PATCH", "PUT"])
@pytest.mark.parametrize("fault", [429, 503, "reset"])
def test_a_push_survives_failures(flaky: Any, registry_host: str, method: str, fault: int | str) -> None:
    flaky.method, flaky.faults = method, [fault, fault]
    waits: list[float] = []
    host = f"127.0.0.1:{flaky.server_address[1]}"
    name = f"flaky-{method.lower()}-{fault}"
    pushed = push_image(image(), client(host, sleep=waits.append), parse_reference(f"{host}/{name}", "1.0"), Quiet())
    assert client(registry_host).manifest_digest(name, "1.0") == pushed.digest
    assert len(waits) >= 1
    if fault != "reset":
        assert 7.0 in waits  # Retry-After is kept


def test_an_upload_whose_answer_was_lost_is_not_sent_again(flaky: Any, registry_host: str) -> None:
    host = f"127.0.0.1:{flaky.server_address[1]}"
    flaky.method, flaky.lost = "PUT", [True] * 5  # every blob's end and the manifest: done, the answers lost
    waits: list[float] = []
    pushed = push_image(image(b"lost"), client(host, sleep=waits.append), parse_reference(f"{host}/lost-answers", "1.0"), Quiet())
    assert client(registry_host).manifest_digest("lost-answers", "1.0") == pushed.digest
    assert flaky.patches == pushed.blobs


@pytest.mark.parametrize(("status", "fix"), [(403, "docker login"), (404, "create the repository")])
def test_a_refusal_is_not_retried_and_comes_with_a_fix(flaky: Any, status: int, fix: str) -> None:
    flaky.method, flaky.faults = "POST", [status] * 9
    host = f"127.0.0.1:{flaky.server_address[1]}"
    waits: list[float] = []
    with pytest.raises(RegistryError) as caught:
        push_image(image(), client(host, sleep=waits.append), parse_reference(f"{host}/refused", "1.0"), Quiet())
    assert str(status) in caught.value.message
    assert fix in caught.value.fix
    assert waits == []


def test_a_registry_that_is_down_ends_in_one_error() -> None:
    waits: list[float] = []
    with fails(RegistryError, words=messages.SIX_ATTEMPTS):
        push_image(image(), client("127.0.0.1:9", sleep=waits.append), parse_reference("127.0.0.1:9/x", "1.0"), Quiet())
    assert len(waits) == 5
    assert waits == sorted(waits)


def test_a_call_is_not_retried_when_another_thread_failed() -> None:
    waits: list[float] = []
    registry = client("127.0.0.1:9", sleep=waits.append)
    registry.stop.set()
    with fails(RegistryError, words=messages.NOT_RETRIED):
        registry.check_access()
    assert waits == []


def test_weights_that_changed_since_the_build_are_refused_by_their_digest(registry_host: str, tmp_path: Path) -> None:
    from torchrelay.oci.blobs import Slice

    weights = tmp_path / "m.mar"
    weights.write_bytes(bytes(5000))
    with Quiet().task("", None) as task:
        changed = tar_layer([LayerFile("model.pt", Slice(weights, 0, 5000), 5000)], "weights", task)
    weights.write_bytes(b"1" * 5000)
    config = {"rootfs": {"type": "layers", "diff_ids": [changed.diff_id]}, "config": {}}
    with fails(RegistryError, "DIGEST_INVALID"):
        push_image(Image(config, (changed,), {}), client(registry_host), parse_reference(f"{registry_host}/changed", "1"), Quiet())
    assert client(registry_host).manifest_digest("changed", "1") is None
