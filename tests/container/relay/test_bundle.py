"""From job to job: a bundle is verified in one, and the other loads, pushes and deploys exactly that."""

from __future__ import annotations

import json
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
import pytest
import requests

from tests.container.relay.runs import Cli, deployed_containers, digits, removed_afterwards
from tests.integration.conftest import free_port

ENV = {"GITHUB_REPOSITORY": "acme/models", "GITHUB_REF": "refs/heads/main", "GIT_CONFIG_GLOBAL": "/dev/null"}


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    return subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


@dataclass(frozen=True)
class Handed:
    """Bundles of two commits of one model, oldest first; the model directory is gone."""

    name: str
    url: str
    folders: list[Path]
    results: list[dict[str, Any]]
    commits: list[str]

    def config(self, number: int) -> str:
        """Id of a bundle's image in the daemon."""
        return str(json.loads((self.folders[number] / "release.json").read_text())["image"]["config"])


@pytest.fixture(scope="module")
def handed(cli: Cli, client: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Handed]:
    name, port = f"bundle-test-{secrets.token_hex(3)}", free_port()
    top = tmp_path_factory.mktemp("handed")
    model = digits(top / "model", name, port)
    git(model, "init", "-q", "-b", "main")
    handed = Handed(name, f"http://127.0.0.1:{port}/predictions/{name}", [], [], [])
    with removed_afterwards(client, name):
        for number in range(2):
            (model / "README.md").write_text(f"commit {number}")
            git(model, "add", "-A")
            git(model, "commit", "-qm", str(number))
            handed.commits.append(git(model, "rev-parse", "HEAD"))
            assert cli("verify", model, env=ENV).code == 0
            handed.folders.append(top / f"bundle{number}")
            handed.results.append(cli("bundle", model, "--output", handed.folders[-1], "--json", env=ENV).result)
        shutil.rmtree(model)
        yield handed


def deploy(cli: Cli, handed: Handed, number: int, folder: Path | None = None, *more: str) -> Any:
    where = folder or handed.folders[number]
    return cli(
        "deploy", "--bundle", where, "--target", "docker", "--expect-digest", handed.results[number]["digest"], *more, "--json"
    )


def forget(client: docker.DockerClient, image: str) -> None:
    """Remove an image from the daemon, which then is like another machine's."""
    client.images.remove(image, force=True)
    with pytest.raises(docker.errors.ImageNotFound):
        client.images.get(image)


def test_a_daemon_without_the_image_gets_it_from_the_bundle(handed: Handed, cli: Cli, client: docker.DockerClient) -> None:
    forget(client, handed.config(0))
    result = deploy(cli, handed, 0).result
    assert (result["result"], result["endpoint"]["digest"], result["endpoint"]["state"]) == ("passed", handed.config(0), "ready")
    assert handed.results[0]["version"] == handed.commits[0][:12]
    picture = Path(__file__).parents[3] / "examples/digits/samples/seven.png"
    answer = requests.post(handed.url, data=picture.read_bytes(), headers={"Content-Type": "image/png"}, timeout=30)
    assert answer.json()["class"] in (7, "7", "seven")
    rows = json.loads((handed.folders[0] / ".torchrelay/stages.json").read_text())
    assert [row["stage"] for row in rows] == ["deploy"]


def test_the_newer_goes_live_after_a_push_and_the_older_stays_out(
    handed: Handed, cli: Cli, client: docker.DockerClient, registry_host: str
) -> None:
    deploy(cli, handed, 0)
    pushed = cli("push", "--bundle", handed.folders[1], "--repository", f"{registry_host}/bundles/", "--json").result
    assert pushed["digest"] == handed.results[1]["image"]
    assert cli("push", "--bundle", handed.folders[1], "--repository", f"{registry_host}/bundles/", "--json").result["bytes"] == 0
    assert deploy(cli, handed, 1).result["endpoint"]["digest"] == handed.config(1)
    (version,) = client.containers.list(filters={"label": f"org.torchrelay.commit={handed.commits[1]}"})
    assert (version.labels["org.torchrelay.sequence"], version.labels["org.torchrelay.repository"]) == ("2", "acme/models")

    before = deployed_containers(client, handed.name)
    late = deploy(cli, handed, 0)
    late.refused(33, f"({handed.commits[1][:12]}, #2); refusing to deploy {handed.commits[0][:12]} (#1)")
    assert deployed_containers(client, handed.name) == before
    assert deploy(cli, handed, 1).result["endpoint"]["skipped"]


def test_a_changed_layer_is_not_loaded(handed: Handed, cli: Cli, client: docker.DockerClient, tmp_path: Path) -> None:
    """The daemon lacks the image, so its layers are read; one byte of the handler's layer was changed, not its size."""
    for container in client.containers.list(all=True, filters={"label": f"org.torchrelay.name={handed.name}"}):
        container.remove(force=True, v=True)  # the front uses the first version's image
    forget(client, handed.config(0))
    spoiled = shutil.copytree(handed.folders[0], tmp_path / "bundle")
    manifest = json.loads((spoiled / "blobs" / handed.results[0]["image"].replace(":", "/")).read_text())
    layer = spoiled / "blobs" / manifest["layers"][-1]["digest"].replace(":", "/")
    data = layer.read_bytes()
    middle = len(data) // 2
    layer.write_bytes(data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])
    deploy(cli, handed, 0, spoiled).refused(24, "has other bytes")  # release.json is as announced
    assert deployed_containers(client, handed.name) == {}
    with pytest.raises(docker.errors.ImageNotFound):
        client.images.get(handed.config(0))
    assert deploy(cli, handed, 0).result["endpoint"]["state"] == "ready"
