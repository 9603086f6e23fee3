"""The runtime image, and containers of it. Nothing is skipped: without Docker these tests fail and say what to start."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from contextlib import suppress

import docker
import pytest

from tests.container.base_image import ensure_base_image
from tests.container.corpus.served import KINDS, KindServer, served
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
    if tag := os.environ.get("TORCHRELAY_TEST_RUNTIME"):
        return tag
    settings = cpu_settings()
    with exclusive(cache_dir() / "runtime" / f"{inputs_digest(settings)}.lock", BUSY, LONGEST_S):  # as ensure_runtime
        return build_if_missing(client, settings)


@pytest.fixture(scope="session")
def images(client: docker.DockerClient) -> Iterator[set[str]]:
    """Tags of the thin images that this run builds and removes; another run on this machine may use others."""
    tags: set[str] = set()
    yield tags
    for tag in tags:
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
    """One ready container for all tests that do not change it."""
    factory = Factory(client, runtime, server, images)
    yield factory(serving={"environment": {"DECLARED": "yes"}}).wait_ready()
    factory.remove_all(show=request.session.testsfailed > 0)


@pytest.fixture(scope="session", params=KINDS)
def kind_server(
    client: docker.DockerClient,
    runtime: str,
    server: str,
    images: set[str],
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[KindServer]:
    """A container of each kind of shipped handler. pytest groups the tests by kind, so that one container runs at a time."""
    factory, kind = Factory(client, runtime, server, images), KINDS[request.param]
    yield KindServer(request.param, *served(factory, kind.make(tmp_path_factory.mktemp("kind")), kind.good, kind.options))
    factory.remove_all(show=request.session.testsfailed > 0)
