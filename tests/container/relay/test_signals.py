"""Ctrl-C, TERM and KILL in every stage: nothing stays behind, and the next run ends like an undisturbed one."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import docker
import pytest
import requests

from tests.container.relay.conftest import Live
from tests.container.relay.runs import (
    Cli,
    copy_of,
    deployed_containers,
    digits,
    edit,
    half_written,
    own_handler,
    private_cache,
    repositories,
    scratch_containers,
    wait_for,
)
from tests.container.relay.servers import Index, registry_proxy
from tests.integration.weights_server import Handler, serving

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
ENDS_WITHIN_S = 15.0


def interrupt(
    cli: Cli, arguments: list[str | Path], what: str, reached: Callable[[], Any], sent: int, env: Mapping[str, str] | None = None
) -> None:
    """Start the command, send it a signal when `reached` returns true, and check how it ends."""
    process = cli.start(*arguments, env=env)
    wait_for(what, reached, process)
    os.killpg(process.pid, sent)
    outcome = cli.finish(process, ENDS_WITHIN_S)
    if sent == signal.SIGKILL:
        assert outcome.code == -signal.SIGKILL, outcome.output
    else:
        outcome.refused(130, "interrupted", "run it again")
        assert '"exit_code": 130' in outcome.out or "--json" not in arguments, outcome.output


def test_in_fetch(live: Live, model: Path, cli: Cli, client: docker.DockerClient, tmp_path: Path) -> None:
    with serving((model / "model.pt").read_bytes()) as server:
        env = {"TORCHRELAY_CACHE": str(private_cache(tmp_path / "cache"))}
        edit(model / "model.yaml", "weights: model.pt", f"weights: {server.url}/model.pt")
        (model / "model.pt").unlink()
        (model / "weights.lock").unlink()
        for sent in SIGNALS:
            go, begun = threading.Event(), threading.Event()

            def half(handler: Handler, go: threading.Event = go, begun: threading.Event = begun) -> None:
                handler.good(upto=20_000)
                handler.wfile.flush()
                begun.set()
                go.wait(30)

            server.next = [half]
            interrupt(cli, ["relay", model, *live.options], "half of the weights", begun.is_set, sent, env)
            go.set()
            assert not (model / "weights.lock").exists()
            assert not list((tmp_path / "cache/weights").glob("*/model.pt"))
            assert scratch_containers(client, model) == []
        again = cli("relay", model, *live.options, env=env)
        assert again.result["image"] == live.first.result["image"]
        assert half_written(tmp_path / "cache/weights") == []


def test_in_archive(cli: Cli, tmp_path: Path) -> None:
    folder = digits(tmp_path / "model", "relay-test", 8080)
    edit(folder / "model.yaml", "workers: 1", "workers: 1\nextra_files: [ballast.bin]")
    with (folder / "ballast.bin").open("wb") as file:
        file.truncate(600 << 20)
    undisturbed = copy_of(folder, tmp_path / "undisturbed")
    state = folder / ".torchrelay"
    for sent in SIGNALS:

        def writing() -> bool:
            return any(path.stat().st_size > 1 << 20 for path in state.glob(".relay-test.mar.*.tmp"))

        interrupt(cli, ["archive", folder, "--json"], "the archive's growing", writing, sent)
        assert not (state / "relay-test.mar").exists()
        assert bool(half_written(folder)) == (sent == signal.SIGKILL)
    archives = [cli("archive", one, "--json").result for one in (folder, undisturbed)]
    assert half_written(folder) == []
    assert archives[0]["inputs"] == archives[1]["inputs"]
    digests = [hashlib.file_digest(Path(one["path"]).open("rb"), "sha256").hexdigest() for one in archives]  # noqa: SIM115 -- closed with the process
    assert digests[0] == digests[1]
    shutil.rmtree(tmp_path / "undisturbed")
    shutil.rmtree(folder)


def test_while_requirements_are_installed(cli: Cli, client: docker.DockerClient, index: Index, tmp_path: Path) -> None:
    name = f"relay-test-{secrets.token_hex(3)}"
    folder = own_handler(tmp_path / "model", "imports_a_requirement", name)
    undisturbed = copy_of(folder, tmp_path / "undisturbed")
    env = {**index.env, "TORCHRELAY_CACHE": str(private_cache(tmp_path / "cache"))}
    for sent in SIGNALS:
        index.hold.close()
        interrupt(cli, ["build", folder, "--json"], "pip's request", index.hold.reached.is_set, sent, env)
        index.hold.go.set()
        assert len(scratch_containers(client, folder)) == (1 if sent == signal.SIGKILL else 0)
        assert not list((tmp_path / "cache/layers").glob("dependencies-*"))
    built = cli("build", folder, "--json", env=env).result
    assert scratch_containers(client, folder) == []
    other = {**index.env, "TORCHRELAY_CACHE": str(private_cache(tmp_path / "another"))}
    assert cli("build", undisturbed, "--json", env=other).result["digest"] == built["digest"]


def test_in_verify(live: Live, model: Path, cli: Cli, client: docker.DockerClient) -> None:
    verdict = model / ".torchrelay/verdict.json"
    verdict.unlink()
    left: list[str] = []
    for sent in SIGNALS:

        def new_container(left: list[str] = left) -> bool:
            return any(name not in left for name in scratch_containers(client, model))

        interrupt(cli, ["relay", model, *live.options], "the container", new_container, sent)
        left = scratch_containers(client, model)
        assert len(left) == (1 if sent == signal.SIGKILL else 0)
        assert not verdict.exists()
    again = cli("relay", model, *live.options)
    assert again.result["image"] == live.first.result["image"]
    assert scratch_containers(client, model) == []
    assert verdict.exists()


def test_in_push(live: Live, model: Path, cli: Cli, client: docker.DockerClient) -> None:
    repository = f"interrupted-{secrets.token_hex(3)}"
    with registry_proxy(live.registry) as (host, hold):
        arguments: list[str | Path] = ["relay", model, "--target", "docker", "--repository", f"{host}/{repository}", "--json"]
        for sent in SIGNALS:
            hold.close()
            interrupt(cli, arguments, "an upload", hold.reached.is_set, sent)
            hold.go.set()
            assert repository not in repositories(live.registry)
        again = cli(*arguments)
        assert again.result["pushed"]["digest"] == live.first.result["image"]
        assert again.stage("deploy")["skipped"]
        tags = requests.get(f"http://{live.registry}/v2/{repository}/tags/list", timeout=5).json()
        assert tags == {"name": repository, "tags": ["1.0"]}
    assert scratch_containers(client, model) == []


def answers(live: Live) -> bool:
    image = (live.dir / "samples/seven.png").read_bytes()
    answer = requests.post(live.url, data=image, headers={"Content-Type": "image/png"}, timeout=30)
    return answer.status_code == 200 and answer.json()["class"] == "7"


def test_in_deploy(live: Live, model: Path, cli: Cli, client: docker.DockerClient) -> None:
    """The deployed version keeps serving; at the end the new one serves, then the old one again."""
    before = deployed_containers(client, live.name)
    edit(model / "model.py", '"""A small', '"""Still a small')
    assert cli("verify", model).code == 0
    for sent in SIGNALS:

        def candidate() -> bool:
            now = deployed_containers(client, live.name)
            return any(state == "running" for name, state in now.items() if name not in before)

        if sent != SIGNALS[0]:
            assert not candidate(), "an earlier run left its candidate"
        interrupt(cli, ["deploy", model, "--target", "docker", "--json"], "the new version's container", candidate, sent)
        now = deployed_containers(client, live.name)
        assert {name: now.get(name) for name in before} == before
        assert len(now) == len(before) + (1 if sent == signal.SIGKILL else 0)
        assert answers(live)
    assert cli("deploy", model, "--target", "docker", "--json").result["endpoint"]["previous"]
    assert answers(live)
    assert len(deployed_containers(client, live.name)) == len(before) + 1  # the old one, stopped
    back = cli("relay", live.dir, *live.options)
    assert back.result["image"] == live.first.result["image"]
    assert answers(live)


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_it_at_once(model: Path, cli: Cli, client: docker.DockerClient, sent: int) -> None:
    """A second Ctrl-C during the cleanup gives one error too; the next run removes what is left."""
    (model / ".torchrelay/verdict.json").unlink()
    process = cli.start("verify", model)
    wait_for("the container", lambda: scratch_containers(client, model), process)
    os.killpg(process.pid, sent)
    try:
        process.wait(0.05)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, sent)
    outcome = cli.finish(process, ENDS_WITHIN_S)
    outcome.refused(130, "interrupted")
    assert cli("verify", model).code == 0
    assert scratch_containers(client, model) == []
