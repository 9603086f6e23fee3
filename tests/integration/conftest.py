"""Real components for integration tests: a registry on loopback (docker-registry, which stands in for ECR's data plane)."""

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHRELAY_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="session")
def registry_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """host:port of a real registry that keeps its blobs in a temporary folder."""
    yield from serve_registry(tmp_path_factory.mktemp("registry"))


def serve_registry(folder: Path, more: str = "") -> Iterator[str]:
    """Run a real registry that stores into `folder`, with `more` lines of configuration, and yield its host:port."""
    program = shutil.which("docker-registry")
    if program is None:
        pytest.fail("docker-registry is missing: run `make test-machine`, or install it")
    port = free_port()
    config = folder / "config.yml"
    config.write_text(
        f"version: 0.1\nlog: {{level: warn}}\n"
        f"storage: {{filesystem: {{rootdirectory: {folder}/data}}, delete: {{enabled: true}}}}\n"
        f'http: {{addr: "127.0.0.1:{port}"}}\n{more}'
    )
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([program, "serve", str(config)], stdout=log, stderr=log)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            if requests.get(f"http://127.0.0.1:{port}/v2/", timeout=1).status_code in (200, 401):
                break
        except requests.ConnectionError:
            if process.poll() is not None:
                break
    else:
        process.kill()
        pytest.fail(f"docker-registry did not answer: {(folder / 'log').read_text()[-2000:]}")
    yield f"127.0.0.1:{port}"
    process.terminate()
    process.wait(timeout=10)
