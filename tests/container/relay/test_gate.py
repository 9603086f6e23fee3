"""The gate: a version that answers wrongly does not touch the one that serves; test_cases.py has the kinds of wrong models."""

from __future__ import annotations

import shutil
from pathlib import Path

import docker

from tests.container.relay.conftest import Live
from tests.container.relay.runs import Cli, deployed_containers, edit


def test_a_bad_version_leaves_the_one_that_serves_alone(live: Live, model: Path, cli: Cli, client: docker.DockerClient) -> None:
    before = deployed_containers(client, live.name)
    shutil.copyfile(model / "samples/seven.json", model / "samples/wrong.json")
    edit(model / "samples/wrong.json", '"7"', '"4"')
    cli("relay", model, *live.options).refused(20, "wrong")
    assert deployed_containers(client, live.name) == before
    assert cli("invoke", model, "--target", "docker", "--sample", "seven", "--json").result["body"]["class"] == "7"
    (model / "samples/wrong.json").unlink()
    again = cli("relay", model, *live.options)
    assert again.stage("deploy")["skipped"]
    assert again.result["image"] == live.first.result["image"]
