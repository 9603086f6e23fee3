"""Bad input: one clear error, its own exit code, nothing half-done; the next good run ends like an undisturbed one."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import docker
import pytest
import requests

from tests.container.harness import poll
from tests.container.relay.conftest import Live
from tests.container.relay.runs import (
    EXAMPLES,
    Cli,
    Outcome,
    copy_of,
    deployed_containers,
    edit,
    half_written,
    private_cache,
    repositories,
    scratch_containers,
    wait_for,
)
from tests.container.relay.servers import package_index
from tests.integration.conftest import free_port
from tests.integration.weights_server import Handler, WeightsServer, reset, serving, status
from torchrelay.core.paths import cache_dir

LFS_POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 123456\n"
WORKERS = 1 + (EXAMPLES / "digits/model.yaml").read_text().splitlines().index("workers: 1")
BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join([f'*{chr(97 + n)}'] * 9)}]\n" for n in range(9)
)
Spoil = Callable[[Path], object]


def yaml(text: str) -> Spoil:
    return lambda folder: (folder / "model.yaml").write_text(text)


def changed(old: str, new: str) -> Spoil:
    return lambda folder: edit(folder / "model.yaml", old, new)


def file(name: str, content: str | bytes) -> Spoil:
    def write(folder: Path) -> None:
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)

    return write


def without(name: str) -> Spoil:
    return lambda folder: (folder / name).unlink()


def folder_instead(name: str) -> Spoil:
    def write(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).mkdir()

    return write


def one_byte_of_a_tensor(folder: Path) -> None:
    """Weights that can be read and are not those of weights.lock."""
    content = bytearray((folder / "model.pt").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "model.pt").write_bytes(content)


def own_handler_file(content: str) -> Spoil:
    def write(folder: Path) -> None:
        edit(folder / "model.yaml", "handler: image-classifier ", "handler: handler.py #")
        file("handler.py", content)(folder)

    return write


# name of the mistake, how it is made, the exit code, and parts of the message
CASES: dict[str, tuple[Spoil, int, tuple[str, ...]]] = {
    "no_model_yaml": (without("model.yaml"), 10, ("model.yaml: does not exist", "torchrelay init")),
    "model_yaml_is_a_folder": (folder_instead("model.yaml"), 10, ("is not a file",)),
    "model_yaml_is_not_text": (file("model.yaml", b"\xff\xfe\x00name"), 10, ("model.yaml",)),
    "unknown_key": (changed("batch: {size: 16", "batch: {sise: 16"), 10, ("batch.sise: unknown key; did you mean size?",)),
    "wrong_type": (changed("workers: 1", "workers: many"), 10, (f"model.yaml:{WORKERS}: workers:",)),
    "duplicate_key": (changed("workers: 1", "workers: 1\nworkers: 2"), 10, (f"model.yaml:{WORKERS + 1}: workers:",)),
    "tab": (changed("workers: 1", "\tworkers: 1"), 10, (f"model.yaml:{WORKERS}:", "tab")),
    "yaml_bomb": (yaml(BOMB), 10, ("model.yaml:",)),
    "name_with_path": (changed("name: relay-test", "name: ../../relay-test"), 10, ("model.yaml:2: name:",)),
    "illegal_tag": (changed("workers: 1", 'workers: 1\nversion: "a b/c"'), 10, ("version:",)),
    "weights_missing": (without("model.pt"), 10, ("model.pt", "does not exist")),
    "weights_checksum": (
        changed("weights: model.pt", f"weights: {{uri: model.pt, sha256: {'0' * 64}}}"), 12, ("sha256 is", "model.yaml says"),
    ),
    "weights_truncated": (lambda f: os.truncate(f / "model.pt", 1000), 10, ("model.yaml:3: weights:", "damaged zip file")),
    "weights_changed": (one_byte_of_a_tensor, 12, ("weights.lock says", "--update-lock")),
    "weights_lfs_pointer": (file("model.pt", LFS_POINTER), 10, ("Git LFS pointer", "git lfs pull")),
    "handler_without_handler": (own_handler_file("x = 1\n"), 10, ("handler.py", "holds no handler")),
    "handler_with_a_syntax_error": (own_handler_file("def handle(:\n"), 10, ("handler.py:1: is not Python",)),
    "sample_without_expectation": (
        file("samples/extra.json", '{"request": {"json": 1}}'), 10, ("samples/extra.json:1", "expect", "samples record"),
    ),
    "malformed_sample": (file("samples/extra.json", '{"request": '), 10, ("samples/extra.json:1",)),
    "unknown_target": (changed("docker: {port", "dokcer: {port"), 10, ("targets.dokcer", "did you mean docker?")),
}  # fmt: skip


def nothing_happened(live: Live, folder: Path, client: docker.DockerClient, before: dict[str, Any]) -> None:
    assert scratch_containers(client, folder) == []
    assert half_written(folder) == []
    assert world(live, client) == before


def world(live: Live, client: docker.DockerClient) -> dict[str, Any]:
    """What a failed run must not change: the deployed containers and the registry's content."""
    tags = requests.get(f"http://{live.registry}/v2/models/{live.name}/tags/list", timeout=5).json()
    return {"deployed": deployed_containers(client, live.name), "repositories": repositories(live.registry), "tags": tags}


def converges(live: Live, cli: Cli, folder: Path) -> None:
    again = cli("relay", folder, *live.options)
    assert again.result["image"] == live.first.result["image"]
    assert again.stage("deploy")["skipped"]


@pytest.mark.parametrize("case", CASES)
def test_a_mistake_in_the_directory(live: Live, model: Path, cli: Cli, client: docker.DockerClient, case: str) -> None:
    spoil, code, fragments = CASES[case]
    before = world(live, client)
    spoil(model)
    cli("relay", model, *live.options).refused(code, *fragments)
    nothing_happened(live, model, client, before)


def test_one_fix_after_another_converges(live: Live, model: Path, cli: Cli) -> None:
    """After each mistake is fixed, the directory goes through as if nothing had happened."""
    good = {name: (model / name).read_bytes() for name in ("model.yaml", "model.pt")}
    for case in ("wrong_type", "weights_truncated", "weights_lfs_pointer"):
        spoil, code, _ = CASES[case]
        spoil(model)
        cli("relay", model, *live.options).refused(code)
        for name, content in good.items():
            (model / name).write_bytes(content)
    converges(live, cli, model)


def test_no_such_directory_and_no_such_option(cli: Cli, tmp_path: Path) -> None:
    cli("relay", tmp_path / "nowhere").refused(10, "does not exist")
    assert not (tmp_path / "nowhere").exists()
    cli("relay", "--taget", "docker").refused(2, "--taget", "--help")
    cli("verfy").refused(2, "verfy")


def test_an_error_is_json_for_programs(cli: Cli, model: Path) -> None:
    edit(model / "model.yaml", "workers: 1", "workers: many")
    failed = cli("check", model, "--json")
    error = json.loads(failed.out)["error"]
    assert (failed.code, error["exit_code"], error["kind"]) == (10, 10, "model_invalid")
    assert [(one["file"], one["line"], one["field"]) for one in error["problems"]] == [("model.yaml", WORKERS, "workers")]


def test_an_unreadable_model_yaml(cli: Cli, model: Path) -> None:
    """Root reads everything, so the command runs without that right."""
    (model / "model.yaml").chmod(0)
    drop = 'exec setpriv --bounding-set -dac_override,-dac_read_search --inh-caps -all "$@"' if os.geteuid() == 0 else 'exec "$@"'
    cli("check", model, shell=drop).refused(10, "model.yaml", "Permission denied")


@contextmanager
def weights_at(server: WeightsServer, model: Path, cache: Path) -> Iterator[dict[str, str]]:
    """Serve the model's weights over HTTP; the cache of downloads is empty, the runtime image's cache is the real one."""
    edit(model / "model.yaml", "weights: model.pt", f"weights: {server.url}/model.pt")
    (model / "model.pt").unlink()
    yield {"TORCHRELAY_CACHE": str(private_cache(cache))}


@pytest.fixture
def server(model: Path) -> Iterator[WeightsServer]:
    with serving((model / "model.pt").read_bytes()) as running:
        yield running


def test_missing_weights_that_appear_later(
    live: Live, model: Path, cli: Cli, server: WeightsServer, tmp_path: Path, client: docker.DockerClient
) -> None:
    before = world(live, client)
    with weights_at(server, model, tmp_path / "cache") as env:
        server.next = [status(404)]
        cli("relay", model, *live.options, env=env).refused(11, "404", f"{server.url}/model.pt")
        nothing_happened(live, model, client, before)
        server.next = [reset(20_000)]  # cut once: the download resumes
        again = cli("relay", model, *live.options, env=env)
        assert again.result["image"] == live.first.result["image"]
        assert server.asked[-1]["range"].startswith("bytes=")
        assert half_written(tmp_path / "cache/weights") == []


def test_weights_that_change_at_the_same_url(live: Live, model: Path, cli: Cli, server: WeightsServer, tmp_path: Path) -> None:
    with weights_at(server, model, tmp_path / "cache") as env:
        (model / "weights.lock").unlink()
        assert cli("fetch", model, env=env).code == 0
        shutil.rmtree(tmp_path / "cache/weights")
        right, server.content = server.content, server.content[:-1] + b"!"
        cli("relay", model, *live.options, env=env).refused(12, "weights.lock says", "--update-lock")
        server.content = right
        again = cli("relay", model, *live.options, env=env)
        assert again.result["image"] == live.first.result["image"]


def on_small_disk(folder: Path, size: str, filler: int, again: str = 'rm "$SMALL/filler"; ') -> str:
    """A shell program that runs the command twice with $SMALL on a tmpfs, first full and then not; it always unmounts it."""
    unshare = "unshare --mount" if os.geteuid() == 0 else "unshare --mount --map-root-user"
    inner = (
        f'set -u; export SMALL={folder}; cp -r "$SMALL" "$SMALL.saved"; mount -t tmpfs -o size={size} small "$SMALL"; '
        'cp -r "$SMALL.saved/." "$SMALL/"; '
        f'head -c {filler} /dev/zero > "$SMALL/filler" 2>/dev/null; '
        '"$@" >&2; echo "code=$?"; find "$SMALL" -name "*.tmp" -o -name "*.part" -o -name "tmp*" >&2; '
        f'{again} "$@" >&2; echo "code=$?"'
    )
    return f"exec {unshare} sh -c '{inner}' sh \"$@\""


def disk_full_then_not(outcome: Outcome) -> None:
    assert outcome.out.split() == ["code=41", "code=0"], outcome.output
    assert outcome.err.count("torchrelay: ") == 1, outcome.output
    assert "Traceback" not in outcome.err, outcome.output
    assert ".tmp" not in outcome.err
    assert ".part" not in outcome.err


def test_a_full_disk_while_weights_are_fetched(
    live: Live, model: Path, cli: Cli, server: WeightsServer, tmp_path: Path, client: docker.DockerClient
) -> None:
    before = world(live, client)
    server.content = os.urandom(3 << 20)
    with weights_at(server, model, tmp_path / "cache") as env:
        (model / "weights.lock").unlink()
        (tmp_path / "cache/weights").mkdir()
        outcome = cli("fetch", model, env=env, shell=on_small_disk(tmp_path / "cache/weights", "4m", 2 << 20))
        disk_full_then_not(outcome)
        nothing_happened(live, model, client, before)


def test_a_full_disk_while_the_archive_is_written(live: Live, model: Path, cli: Cli, client: docker.DockerClient) -> None:
    before = world(live, client)
    (model / "ballast.bin").write_bytes(os.urandom(1 << 20))
    edit(model / "model.yaml", "workers: 1", "workers: 1\nextra_files: [ballast.bin]")
    disk_full_then_not(cli("archive", model, shell=on_small_disk(model, "4m", 1_800_000)))
    nothing_happened(live, model, client, before)


def test_a_full_disk_before_anything(live: Live, model: Path, cli: Cli) -> None:
    assert live.first.code == 0
    shutil.rmtree(model / ".torchrelay")
    disk_full_then_not(cli("archive", model, shell=on_small_disk(model, "1m", 1 << 20)))


def test_a_full_disk_while_the_runtime_image_is_exported(model: Path, cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    env = {"TORCHRELAY_CACHE": str(tmp_path / "cache")}
    elsewhere = f"export TORCHRELAY_CACHE={cache_dir()}; "  # another export would take a minute to compress
    disk_full_then_not(cli("build", model, env=env, shell=on_small_disk(tmp_path / "cache", "4m", 1 << 20, again=elsewhere)))


def test_docker_is_not_running(live: Live, model: Path, cli: Cli, client: docker.DockerClient) -> None:
    before = world(live, client)
    (model / ".torchrelay/verdict.json").unlink()
    gone = {"DOCKER_HOST": "unix:///nonexistent.sock"}
    cli("relay", model, *live.options, env=gone).refused(16, "unix:///nonexistent.sock", "--target local")
    nothing_happened(live, model, client, before)


def test_requirements_that_do_not_resolve(live: Live, model: Path, cli: Cli, client: docker.DockerClient) -> None:
    before = world(live, client)
    (model / "requirements.txt").write_text("relay-test-no-such-package==1.0\n")
    with package_index(client) as index:
        cli("relay", model, *live.options, env=index.env).refused(14, "relay-test-no-such-package==1.0")
    nothing_happened(live, model, client, before)
    (model / "requirements.txt").unlink()
    converges(live, cli, model)


@pytest.fixture
def strict_registry(tmp_path: Path) -> Iterator[str]:
    """A registry that requires a user and a password."""
    port = free_port()
    (tmp_path / "htpasswd").write_text("relay:$2b$05$VuExwItAouln9fe9xSUqluAT5rwxW776pcebxdy9AYslpfPUj6Qma\n")
    config = tmp_path / "registry.yml"
    config.write_text(
        f"version: 0.1\nlog: {{level: warn}}\nstorage: {{filesystem: {{rootdirectory: {tmp_path}/data}}}}\n"
        f'http: {{addr: "127.0.0.1:{port}"}}\n'
        f"auth: {{htpasswd: {{realm: test, path: {tmp_path}/htpasswd}}}}\n"
    )
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(["docker-registry", "serve", str(config)], stdout=log, stderr=log)
    try:
        poll("the registry's 401", lambda: _status(f"http://127.0.0.1:{port}/v2/") == 401, 20)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=10)


def _status(url: str) -> int:
    try:
        return requests.get(url, timeout=1).status_code
    except requests.ConnectionError:
        return 0


def test_a_registry_that_requires_a_login(
    live: Live, model: Path, cli: Cli, strict_registry: str, tmp_path: Path, client: docker.DockerClient
) -> None:
    before = world(live, client)
    (tmp_path / "docker").mkdir()
    env = {"DOCKER_CONFIG": str(tmp_path / "docker")}
    options = ["--target", "docker", "--repository", f"{strict_registry}/models/", "--json"]
    cli("relay", model, *options, env=env).refused(30, "401", "docker login")
    wrong = base64.b64encode(b"relay:wrong").decode()
    (tmp_path / "docker/config.json").write_text(json.dumps({"auths": {strict_registry: {"auth": wrong}}}))
    refused = cli("relay", model, *options, env=env).refused(30, "401", "docker login")
    assert wrong not in refused
    nothing_happened(live, model, client, before)
    assert not (tmp_path / "data/docker/registry/v2/repositories").exists()
    right = base64.b64encode(b"relay:secret").decode()
    (tmp_path / "docker/config.json").write_text(json.dumps({"auths": {strict_registry: {"auth": right}}}))
    again = cli("relay", model, *options, env=env)
    assert again.result["pushed"]["digest"] == live.first.result["image"]
    shutil.rmtree(tmp_path / "data")


def test_unreachable_registries(live: Live, model: Path, cli: Cli, tmp_path: Path, client: docker.DockerClient) -> None:
    """Both wait through their retries, so they run at the same time."""
    before = world(live, client)
    other = copy_of(live.dir, tmp_path / "other")
    closed = f"127.0.0.1:{free_port()}"
    started = [
        cli.start("relay", folder, "--target", "docker", "--repository", f"{host}/models/")
        for folder, host in ((model, closed), (other, "registry.invalid"))
    ]
    cli.finish(started[0]).refused(30, closed, "gave up after", "check that the registry is running")
    cli.finish(started[1]).refused(30, "registry.invalid", "gave up after")
    nothing_happened(live, model, client, before)
    cli("push", model, "--repository", "digits").refused(30, "'digits' is not an image repository", "127.0.0.1:5000/models/digits")
    cli("push", model, "--repository", f"{closed}/Models/").refused(30, "is not a repository name")
    converges(live, cli, model)


def test_a_port_that_is_taken(live: Live, model: Path, cli: Cli, client: docker.DockerClient) -> None:
    before = world(live, client)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        edit(model / "model.yaml", f"docker: {{port: {live.port}}}", f"docker: {{port: {port}}}")
        cli("relay", model, *live.options).refused(32, f"127.0.0.1:{port}", "targets: {docker: {port:")
    nothing_happened(live, model, client, before)


def test_two_relays_at_once(live: Live, model: Path, cli: Cli, server: WeightsServer, tmp_path: Path) -> None:
    """The second one ends at once and names the process that is working; the first one is not disturbed."""
    go = threading.Event()

    def wait(handler: Handler) -> None:
        go.wait(60)
        handler.good()

    with weights_at(server, model, tmp_path / "cache") as env:
        server.next = [wait]
        first = cli.start("relay", model, *live.options, env=env)
        wait_for("the first relay's request for the weights", lambda: server.asked, first)
        try:
            second = cli("relay", model, *live.options, env=env)
            second.refused(40, f"process {first.pid}", "wait for it to end")
            assert second.seconds < 10
            cli("archive", model, env=env).refused(40)
        finally:
            go.set()
        assert cli.finish(first).result["image"] == live.first.result["image"]


def test_a_truncated_lock_file(model: Path, cli: Cli) -> None:
    content = (model / "model.pt").read_bytes()
    good = (model / "weights.lock").read_text()
    (model / "weights.lock").write_text(good[:-10])
    cli("fetch", model).refused(10, "weights.lock", "restore it from git")
    (model / "weights.lock").write_text(good)
    assert cli("fetch", model, "--json").result["sha256"] == hashlib.sha256(content).hexdigest()
