"""A model image that replaces the probe: it could report right answers without a server, so verify does not ask it for them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import docker
import pytest

from tests.container.base_image import ensure_base_image
from tests.container.relay.runs import Cli, digits, edit, scratch_containers
from torchrelay.core.progress import Quiet
from torchrelay.core.workspace import Workspace
from torchrelay.oci.image import Image, load_image, save_image
from torchrelay.oci.layers import LayerFile, tar_layer
from torchrelay.stages import check, verify
from torchrelay.verification.prober import ExecProber, container_prober
from torchrelay.verification.verdict import Verdict

RUNTIME = "opt/torchrelay/runtime/torchrelay_runtime"
EXPECTED = {"class": "4", "confidence": 0.9}  # the picture is a seven
LYING = f"""\
import base64, http.client, json, sys
if "--ready" in sys.argv:
    ready = True
    if {{waits}}:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", 8080)
            connection.request("GET", "/ping")
            ready = connection.getresponse().status == 200
        except OSError:
            ready = False
    print(json.dumps({{"ready": ready, "reason": "", "failed": False}}))
else:
    body = base64.b64encode({json.dumps(EXPECTED).encode()!r}).decode()
    print(json.dumps([
        {{"id": one["id"], "status": 200, "content_type": "application/json", "body": body, "latency_ms": 1.0, "error": None}}
        for one in json.loads(sys.stdin.readline())["requests"]
    ]))
"""
IDLE = "import signal\nsignal.pause()\n"


def with_programs(image: Image, programs: dict[str, str]) -> Image:
    """Add a layer that replaces modules of the runtime; a whiteout removes the compiled form that Python would prefer."""
    files = []
    for name, program in programs.items():
        files.append(LayerFile(f"{RUNTIME}/{name}.py", program.encode(), len(program.encode())))
        files.append(LayerFile(f"{RUNTIME}/__pycache__/.wh.{name}.cpython-311.pyc", b"", 0))
    with Quiet().task("", None) as task:
        layer = tar_layer(files, "hostile", task)
    config = json.loads(image.config_bytes)
    config["rootfs"]["diff_ids"].append(layer.diff_id)
    config["history"].append({"created_by": "hostile"})
    return Image(config, (*image.layers, layer), image.annotations)


@contextmanager
def from_inside(_client: Any, _folder: Path, container: Any, _runtime: str) -> Iterator[ExecProber]:
    """The control: the image's own probe reports the answers."""
    yield container_prober(container)


@pytest.mark.parametrize(
    ("programs", "reason"),
    [
        ({"probe": LYING.replace("{waits}", "True")}, "$.class"),
        ({"probe": LYING.replace("{waits}", "False"), "entrypoint": IDLE}, "ConnectionRefusedError"),
    ],
    ids=["wrong_server", "no_server"],
)
def test_a_lying_probe_does_not_pass(
    cli: Cli,
    client: docker.DockerClient,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    programs: dict[str, str],
    reason: str,
) -> None:
    monkeypatch.setenv("TORCHRELAY_BASE_IMAGE", os.environ.get("TORCHRELAY_BASE_IMAGE") or ensure_base_image())
    folder = digits(tmp_path / "model", "lying", 8080)
    for sample in set((folder / "samples").glob("*.json")) - {folder / "samples/seven.json"}:
        sample.unlink()
    edit(folder / "samples/seven.json", '"class": "7"', '"class": "4"')
    edit(folder / "samples/seven.json", "0.9989", "0.9")
    built = cli("build", folder)
    assert built.code == 0, built.output
    workspace = Workspace(folder)
    loaded = load_image(workspace.image_record)
    assert loaded is not None
    hostile = with_programs(loaded[0], programs)
    save_image(workspace.image_record, hostile, digest=hostile.digest, config_digest=hostile.config_digest, name="lying")

    def verified() -> Verdict:
        checked = check.run(folder)
        return verify.run(folder, checked.model, list(checked.samples), Quiet())

    try:
        refused = verified()
        assert refused.result == "gate_failed"
        assert reason in refused.reason
        monkeypatch.setattr(verify, "outside_prober", from_inside)
        assert verified().result == "passed", "control: the image's own probe is trusted, and passes"
        assert scratch_containers(client, folder) == []
    finally:
        for image in client.images.list(name="torchrelay/lying"):
            client.images.remove(str(image.id), force=True)
