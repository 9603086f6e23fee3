"""install_packages and unpack_dependencies run in this order when the image is built, and not at start."""

from __future__ import annotations

import io
import secrets
import zipfile
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from tests.container.relay.runs import Cli, edit, own_handler, removed_afterwards, scratch_containers
from tests.container.relay.servers import Index, wheel

WHEEL = "setup_test_words-1.0-py3-none-any.whl"


def names_zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("names.txt", "one two\n")
    return buffer.getvalue()


@pytest.fixture
def folder(client: docker.DockerClient, tmp_path: Path) -> Iterator[Path]:
    name = f"setup-test-{secrets.token_hex(3)}"
    folder = own_handler(tmp_path / "model", "sets_itself_up", name, extra_files=f"[names.zip, {WHEEL}]")
    (folder / WHEEL).write_bytes(wheel("setup_test_words"))
    (folder / "names.zip").write_bytes(names_zip())
    with removed_afterwards(client, name):
        yield folder


def test_setup_runs_once_at_build_and_the_image_needs_no_network(
    cli: Cli, client: docker.DockerClient, index: Index, folder: Path
) -> None:
    edit(folder / "model.yaml", "model_file: model.py\n", "")
    edit(folder / "model.yaml", f"[names.zip, {WHEEL}]", f"[names.zip, {WHEEL}, model.py]")
    assert cli("verify", folder, "--json", env=index.env).result["result"] == "passed"
    layers = [layer["created_by"] for layer in cli("build", folder, "--json", env=index.env).result["layers"]]
    assert layers[-4:] == ["torchrelay dependencies", "torchrelay weights", "torchrelay handler", "torchrelay setup"]
    assert scratch_containers(client, folder) == []

    edit(
        folder / "handler.py", 'os.system("python -m zipfile -e names.zip unpacked")', 'os.system("python -m zipfile -e no.zip x")'
    )
    message = cli("build", folder, env=index.env).refused(
        14, "unpack_dependencies failed", "python -m zipfile -e no.zip x", "ended with 1"
    )
    assert "|| true" in message
    assert scratch_containers(client, folder) == []
