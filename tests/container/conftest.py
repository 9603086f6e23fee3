"""The runtime image, and containers of it. Nothing is skipped: without Docker these tests fail, saying what to start."""

from __future__ import annotations

from collections.abc import Iterator

import docker
import pytest

from container.base_image import ensure_base_image
from container.harness import Container, Factory
from torchrelay import engine, runtime_image
from torchrelay.report import Quiet

SERVERS = ("torchserve",)
FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:  # noqa: ARG001
    report = yield
    if report.failed:
        item.stash[FAILED] = True
    return report


@pytest.fixture(scope="session")
def client() -> Iterator[docker.DockerClient]:
    with engine.daemon() as client:
        yield client


@pytest.fixture(scope="session")
def runtime(client: docker.DockerClient) -> Iterator[str]:
    """The tag of the CPU runtime image of this checkout, built over the stand-in base unless TORCHRELAY_BASE_IMAGE names another."""
    settings = runtime_image.RuntimeSettings.from_environment("cpu")
    settings.arguments.setdefault("BASE_IMAGE", "")
    settings.arguments["BASE_IMAGE"] = settings.arguments["BASE_IMAGE"] or ensure_base_image()
    image = runtime_image.ensure_runtime(settings, Quiet())
    tag = runtime_image.tag_of(runtime_image.inputs_digest(settings))
    engine.load(client, image, tag, Quiet())
    yield tag
    for case in client.images.list("torchrelay-test/case"):
        client.images.remove(case.id, force=True)


@pytest.fixture(scope="session", params=SERVERS)
def server(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def container(client: docker.DockerClient, runtime: str, server: str, request: pytest.FixtureRequest) -> Iterator[Factory]:
    """Starts containers for one test."""
    factory = Factory(client, runtime, server)
    yield factory
    factory.remove_all(show=request.node.stash.get(FAILED, False))


@pytest.fixture(scope="session")
def shared(client: docker.DockerClient, runtime: str, server: str, request: pytest.FixtureRequest) -> Iterator[Container]:
    """One ready container for all tests that leave it as it is."""
    factory = Factory(client, runtime, server)
    yield factory(serving={"environment": {"DECLARED": "yes"}}).wait_ready()
    factory.remove_all(show=request.session.testsfailed > 0)
