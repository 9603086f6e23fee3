"""install_packages and unpack_dependencies run in this order when the image is built, and not at start."""

from __future__ import annotations

import io
import secrets
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from tests.container.relay.runs import Cli, edit, own_handler, removed_afterwards, scratch_containers
from tests.container.relay.servers import Index, wheel
from torchrelay.core.files import ChunkReader
from torchrelay.core.workspace import Workspace
from torchrelay.oci.image import load_image

CHOWN, DAC_OVERRIDE, FOWNER = 1 << 0, 1 << 1, 1 << 3  # capabilities(7)
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


def setup_files(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Return mode and content of the files in the setup layer, by their names."""
    record = load_image(Workspace(folder).image_record)
    assert record is not None
    layer = record[0].layers[-1]
    assert layer.created_by == "torchrelay setup"
    files = {}
    with tarfile.open(fileobj=ChunkReader(layer.blob.chunks()), mode="r|") as archive:
        for member in archive:
            source = archive.extractfile(member)
            files[member.name.rpartition("/")[2]] = (member.mode, source.read() if source else b"")
    return files


@pytest.mark.parametrize(
    ("exhausts", "limit", "words"),
    [
        ("time", {"TIMEOUT_S": "5"}, "did not end within 5 s"),
        ("memory", {"MEMORY": "1Gi"}, "needs more memory than it is allowed"),
        ("processes", {"PIDS": "100"}, "Resource temporarily unavailable"),
    ],
)
def test_a_setup_without_end_is_stopped(
    cli: Cli, client: docker.DockerClient, tmp_path: Path, exhausts: str, limit: dict[str, str], words: str
) -> None:
    name = f"setup-test-{secrets.token_hex(3)}"
    folder = own_handler(tmp_path / "model", "hostile_setup", name)
    with removed_afterwards(client, name):
        edit(folder / "handler.py", 'EXHAUSTS = ""', f'EXHAUSTS = "{exhausts}"')
        cli("build", folder, env={f"TORCHRELAY_INSTALL_{key}": value for key, value in limit.items()}).refused(14, words)
        assert scratch_containers(client, folder) == []


def test_a_hostile_setup_replaces_nothing_and_has_no_privileges(cli: Cli, client: docker.DockerClient, tmp_path: Path) -> None:
    name = f"setup-test-{secrets.token_hex(3)}"
    folder = own_handler(tmp_path / "model", "hostile_setup", name)
    with removed_afterwards(client, name):
        edit(folder / "handler.py", "REPLACES_THE_PROBE = False", "REPLACES_THE_PROBE = True")
        cli("build", folder).refused(14, "the handler's setup left", "leads through", "probe.py")
        assert scratch_containers(client, folder) == []

        edit(folder / "handler.py", "REPLACES_THE_PROBE = True", "REPLACES_THE_PROBE = False")
        assert cli("build", folder, "--json", env={"TORCHRELAY_INSTALL_PIDS": "200", "TORCHRELAY_INSTALL_MEMORY": "1Gi"}).code == 0
        files = setup_files(folder)
        assert files["program"][0] == 0o755
        rows = dict(row.split(":", 1) for row in files["limits.txt"][1].decode().splitlines() if row)
        values = {key.rpartition("/")[2]: value.strip() for key, value in rows.items()}
        assert {int(values[key], 16) for key in ("CapBnd", "CapEff", "CapPrm")} == {CHOWN | DAC_OVERRIDE | FOWNER}
        assert (values["NoNewPrivs"], values["pids.max"], values["init"]) == ("1", "200", "timeout")
        assert str(1 << 30) in (values.get("memory.limit_in_bytes"), values.get("memory.max"))
