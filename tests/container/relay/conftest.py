"""The relay end to end: one verified, pushed and deployed copy of examples/digits, shared by all tests that do not change it."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import docker
import pytest

from tests.container.base_image import ensure_base_image
from tests.container.relay.runs import ROOT, Cli, Outcome, copy_of, digits, removed_afterwards
from tests.container.relay.servers import Index, package_index
from tests.integration.conftest import free_port, registry_host

__all__ = ["registry_host"]


@dataclass(frozen=True)
class Live:
    """A finished relay: its directory, its first run, and where it is deployed."""

    dir: Path
    name: str
    port: int
    registry: str
    first: Outcome

    @property
    def arguments(self) -> list[str | Path]:
        """The arguments of its first run."""
        return ["relay", self.dir, *self.options]

    @property
    def options(self) -> list[str | Path]:
        """The same without the directory."""
        return ["--target", "docker", "--repository", f"{self.registry}/models/", "--json"]

    @property
    def url(self) -> str:
        """The URL that answers predictions."""
        return f"http://127.0.0.1:{self.port}/predictions/{self.name}"


@pytest.fixture(scope="session")
def cli(runtime: str) -> Iterator[Cli]:  # noqa: ARG001 -- the image that every run needs
    base = os.environ.get("TORCHRELAY_BASE_IMAGE") or ensure_base_image()
    command = Cli({"TORCHRELAY_BASE_IMAGE": base, "PYTHONPATH": str(ROOT / "scripts")})
    yield command
    command.end_all()


@pytest.fixture(scope="session")
def live(cli: Cli, client: docker.DockerClient, registry_host: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    name, port = f"relay-test-{secrets.token_hex(3)}", free_port()
    folder = digits(tmp_path_factory.mktemp("live") / "model", name, port)
    with removed_afterwards(client, name):
        wanted = Live(folder, name, port, registry_host, Outcome(0, "", "", 0.0))
        yield Live(folder, name, port, registry_host, cli(*wanted.arguments))


@pytest.fixture
def model(live: Live, tmp_path: Path) -> Path:
    """A copy of the live directory with its verdict; the same inputs give the same image."""
    assert live.first.code == 0, live.first.output
    return copy_of(live.dir, tmp_path / "model")


@pytest.fixture
def index(client: docker.DockerClient) -> Iterator[Index]:
    with package_index(client) as serving:
        yield serving
