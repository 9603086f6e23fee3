"""The runtime image, and containers of it. Nothing is skipped: without Docker these tests fail, saying what to start."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from contextlib import suppress

import docker
import pytest

from tests.container.base_image import ensure_base_image
from tests.container.harness import Container, Factory
from torchrelay.core.locks import LONGEST_S, exclusive
from torchrelay.core.paths import cache_dir
from torchrelay.docker import daemon
from torchrelay.image.runtime import BUSY, RuntimeSettings, build_if_missing, inputs_digest

SERVERS = ("torchserve",)
FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        item.stash[FAILED] = True
    return report


@pytest.fixture(scope="session")
def client() -> Iterator[docker.DockerClient]:
    with daemon.daemon() as client:
        yield client


def cpu_settings() -> RuntimeSettings:
    """The runtime image's inputs, over the stand-in base unless TORCHRELAY_BASE_IMAGE names another."""
    settings = RuntimeSettings.from_environment("cpu")
    if "BASE_IMAGE" not in settings.arguments:
        settings.arguments["BASE_IMAGE"] = ensure_base_image()
    return settings


@pytest.fixture(scope="session")
def runtime(client: docker.DockerClient) -> str:
    """The tag of the image to test: this checkout's CPU runtime image, unless TORCHRELAY_TEST_RUNTIME names one that is there."""
    if given := os.environ.get("TORCHRELAY_TEST_RUNTIME"):
        return given
    settings = cpu_settings()
    with exclusive(cache_dir() / "runtime" / f"{inputs_digest(settings)}.lock", BUSY, LONGEST_S):  # as ensure_runtime
        return build_if_missing(client, settings)


@pytest.fixture(scope="session")
def images(client: docker.DockerClient) -> Iterator[set[str]]:
    """Tags of the thin images that this run made; another run on this machine may be using one."""
    made: set[str] = set()
    yield made
    for tag in made:
        with suppress(docker.errors.APIError):
            client.images.remove(tag)


@pytest.fixture(scope="session", params=SERVERS)
def server(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def container(
    client: docker.DockerClient, runtime: str, server: str, images: set[str], request: pytest.FixtureRequest
) -> Iterator[Factory]:
    """Starts containers for one test."""
    factory = Factory(client, runtime, server, images)
    yield factory
    factory.remove_all(show=request.node.stash.get(FAILED, False))


@pytest.fixture(scope="session")
def shared(
    client: docker.DockerClient, runtime: str, server: str, images: set[str], request: pytest.FixtureRequest
) -> Iterator[Container]:
    """One ready container for all tests that leave it as it is."""
    factory = Factory(client, runtime, server, images)
    yield factory(serving={"environment": {"DECLARED": "yes"}}).wait_ready()
    factory.remove_all(show=request.session.testsfailed > 0)
