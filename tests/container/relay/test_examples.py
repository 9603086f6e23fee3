"""The examples that no other relay test uses, each from its files to an endpoint on Docker."""

from __future__ import annotations

import io
import json
import secrets
import shutil
from pathlib import Path

import docker
import pytest
import requests
from PIL import Image

from tests.container.relay.runs import EXAMPLES, Cli, Outcome, edit, removed_afterwards
from tests.integration.conftest import free_port


def relayed(cli: Cli, folder: Path, example: str, name: str, registry: str) -> tuple[str, Outcome]:
    """Run the whole relay on a copy of an example; return its URL and the run."""
    port = free_port()
    shutil.copytree(EXAMPLES / example, folder, ignore=shutil.ignore_patterns(".torchrelay", "weights.lock", "__pycache__"))
    edit(folder / "model.yaml", f"name: {example}", f"name: {name}")
    edit(folder / "model.yaml", "docker: {port: 8080}", f"docker: {{port: {port}}}")
    done = cli("relay", folder, "--target", "docker", "--repository", f"{registry}/models/", "--json")
    return f"http://127.0.0.1:{port}/predictions/{name}", done


@pytest.mark.parametrize("example", ["resnet-factory", "segmentation"])
def test_an_example_goes_through_the_whole_relay(
    cli: Cli, client: docker.DockerClient, registry_host: str, tmp_path: Path, example: str
) -> None:
    name = f"{example}-{secrets.token_hex(3)}"
    with removed_afterwards(client, name):
        url, done = relayed(cli, tmp_path / "model", example, name, registry_host)
        assert done.result["endpoint"]["url"] == url
        assert done.stage("verify")["result"] == "passed"
        if example == "segmentation":
            picture = (tmp_path / "model/samples/large.jpg").read_bytes()
            headers = {"Content-Type": "image/jpeg", "Accept": "image/png; size=input"}
            answer = requests.post(url, data=picture, headers=headers, timeout=30)
            assert answer.headers["Content-Type"] == "image/png"
            assert Image.open(io.BytesIO(answer.content)).size == Image.open(io.BytesIO(picture)).size
        else:
            picture = (tmp_path / "model/samples/eight.png").read_bytes()
            answer = requests.post(url, data=picture, headers={"Content-Type": "image/png"}, timeout=30)
            wanted = json.loads((tmp_path / "model/samples/eight.json").read_text())["expect"]["json"]
            assert answer.json() == [pytest.approx(wanted[0], abs=0.001), *wanted[1:]]
