"""A model directory in, a verified and answering endpoint out; the verified image is pushed and runs."""

from __future__ import annotations

import json
import secrets
import shutil
import subprocess
from pathlib import Path
from typing import Any

import docker
import pytest
import requests

from tests.container.relay.conftest import Live
from tests.container.relay.runs import (
    Cli,
    deployed_containers,
    digits,
    edit,
    half_written,
    own_handler,
    removed_afterwards,
    scratch_containers,
    verdict,
)
from tests.container.relay.servers import Index

MANIFEST = "application/vnd.oci.image.manifest.v1+json"


def layers(built: dict[str, Any]) -> dict[str, list[str]]:
    """Creator -> digests of its layers."""
    by_stage: dict[str, list[str]] = {}
    for layer in built["layers"]:
        by_stage.setdefault(layer["created_by"], []).append(layer["digest"])
    return by_stage


def manifest_of(live: Live, digest: str) -> dict[str, Any]:
    url = f"http://{live.registry}/v2/models/{live.name}/manifests/{digest}"
    answer = requests.get(url, headers={"Accept": MANIFEST}, timeout=5)
    assert answer.ok, answer.text
    return dict(answer.json())


def test_the_endpoint_answers_with_the_right_class(live: Live) -> None:
    assert live.first.result["endpoint"]["url"] == live.url
    for name in ("seven", "nine", "three", "zero"):
        image = (live.dir / f"samples/{name}.png").read_bytes()
        answer = requests.post(live.url, data=image, headers={"Content-Type": "image/png"}, timeout=30)
        expected = json.loads((live.dir / f"samples/{name}.json").read_text())["expect"]["json"]
        assert answer.status_code == 200
        assert answer.json()["class"] == expected["class"]
        assert answer.json()["confidence"] == pytest.approx(expected["confidence"], abs=0.001)


def test_the_verified_image_is_pushed_and_runs(live: Live, client: docker.DockerClient) -> None:
    verified = verdict(live.dir)
    result = live.first.result
    assert verified["result"] == "passed"
    assert result["image"] == verified["image"] == result["pushed"]["digest"]
    manifest = manifest_of(live, result["image"])
    assert manifest["config"]["digest"] == verified["config"] == result["pushed"]["config_digest"]
    running = client.containers.list(filters={"label": f"org.torchrelay.name={live.name}"})
    assert {one.attrs["Image"] for one in running} == {verified["config"]}
    assert len(running) == 2  # the version and its front
    assert scratch_containers(client, live.dir) == []
    assert half_written(live.dir) == []


def test_other_tools_read_the_image(live: Live, client: docker.DockerClient, tmp_path: Path) -> None:
    digest = live.first.result["image"]
    reference = f"{live.registry}/models/{live.name}@{digest}"
    seen = subprocess.run(
        ["skopeo", "inspect", "--tls-verify=false", f"docker://{reference}"], check=True, capture_output=True, text=True, timeout=60
    )
    described = json.loads(seen.stdout)
    assert (described["Digest"], described["Architecture"], described["Os"]) == (digest, "amd64", "linux")
    copied = ["skopeo", "copy", "-q", "--src-tls-verify=false", f"docker://{reference}", f"dir:{tmp_path}"]
    subprocess.run(copied, check=True, capture_output=True, timeout=120)  # checks every blob against its digest
    assert json.loads((tmp_path / "manifest.json").read_text()) == manifest_of(live, digest)
    shutil.rmtree(tmp_path)
    assert client.images.pull(reference).id == verdict(live.dir)["config"]


def test_a_second_relay_moves_nothing_and_restarts_nothing(live: Live, cli: Cli, client: docker.DockerClient) -> None:
    def running() -> dict[str, str]:
        return {str(one.id): one.attrs["State"]["StartedAt"] for one in client.containers.list(filters={"label": label})}

    label = f"org.torchrelay.name={live.name}"
    before = running()
    again = cli(*live.arguments)
    assert again.result["pushed"]["bytes"] == 0
    assert [stage["stage"] for stage in again.result["stages"] if not stage.get("skipped")] == ["check"]
    assert sum(stage["seconds"] for stage in again.result["stages"]) < 5
    assert again.result["image"] == live.first.result["image"]
    assert running() == before


def test_the_same_inputs_elsewhere_are_the_same_image(live: Live, cli: Cli, tmp_path: Path) -> None:
    again = cli("build", digits(tmp_path / "elsewhere", live.name, live.port), "--json").result
    assert again["digest"] == live.first.result["image"]
    assert not again["skipped"]


def test_an_edit_sends_one_small_layer(live: Live, model: Path, cli: Cli, client: docker.DockerClient) -> None:
    before = deployed_containers(client, live.name)
    edit(model / "model.py", '"""A small', '"""Still a small')
    arguments: list[str | Path] = ["push", "--repository", f"{live.registry}/models/{live.name}:edited", model, "--json"]
    assert cli("build", model).code == 0
    cli(*arguments).refused(23, "run `torchrelay verify` first")
    assert cli("verify", model, "--json").result["result"] == "passed"
    pushed = cli(*arguments).result
    assert 0 < pushed["bytes"] < 1_000_000
    assert pushed["blobs"] == 2  # the handler's layer and the config
    old, new = manifest_of(live, live.first.result["image"])["layers"], manifest_of(live, pushed["digest"])["layers"]
    assert [(a != b) for a, b in zip(old, new, strict=True)] == [False] * (len(new) - 1) + [True]
    assert deployed_containers(client, live.name) == before


def test_requirements_are_a_separate_layer_made_once(cli: Cli, client: docker.DockerClient, index: Index, tmp_path: Path) -> None:
    name = f"relay-test-{secrets.token_hex(3)}"
    folder = own_handler(tmp_path / "model", "imports_a_requirement", name)
    with (folder / "requirements.txt").open("a") as file:
        file.write(f"# {name}: installed by no earlier run\n")
    with removed_afterwards(client, name):
        passed = cli("verify", folder, "--json", env=index.env)
        assert passed.result["result"] == "passed"  # without a network: nothing is installed at start
        asked = len(index.asked)
        assert asked == 2  # the package's page and its wheel
        first = cli("build", folder, "--json", env=index.env).result
        (own,) = layers(first)["torchrelay dependencies"]
        edit(folder / "handler.py", '"""A handler', '"""The handler')
        second = cli("build", folder, "--json", env=index.env).result
        assert layers(second)["torchrelay dependencies"] == [own]
        assert second["digest"] != first["digest"]
        assert len(index.asked) == asked
        assert scratch_containers(client, folder) == []
