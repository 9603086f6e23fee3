"""A namespace under restricted Pod Security for each test, in the one cluster. Without root the tests fail; none is skipped."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.harness import Deployment, Images, poll
from tests.container.conftest import cpu_settings
from torchrelay.core.progress import Quiet
from torchrelay.image.runtime import ensure_runtime

FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        item.stash[FAILED] = True
    return report


@pytest.fixture(scope="session")
def images(cluster: Cluster) -> Images:
    """Images over the runtime image, a gigabyte that the node pulls before the tests."""
    made = Images(cluster.registry, ensure_runtime(cpu_settings(), Quiet()))
    reference, _ = made.of("answers_as_told", "one")
    cluster.run("run", "pull", f"--image={reference}", "--restart=Never", "--command", "--", "true")
    poll(
        "the first pull", lambda: "Succeeded" in cluster.run("get", "pod", "pull", "--output=jsonpath={.status.phase}").stdout, 300
    )
    cluster.run("delete", "pod", "pull", "--wait=false")
    return made


@pytest.fixture(autouse=True)
def kubeconfig(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "cluster" in request.fixturenames:
        monkeypatch.setenv("KUBECONFIG", str(request.getfixturevalue("cluster").kubeconfig))


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[Callable[[], str]]:
    """Returns a function that creates namespaces for restricted pods only."""
    made: list[str] = []

    def make() -> str:
        name = f"test-{secrets.token_hex(3)}"
        cluster.run("create", "namespace", name)
        made.append(name)
        cluster.run("label", "namespace", name, "pod-security.kubernetes.io/enforce=restricted")
        return name

    yield make
    for name in made:
        cluster.run("delete", "namespace", name, "--wait=false")


@pytest.fixture
def deployment(
    cluster: Cluster, images: Images, namespace: Callable[[], str], tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Deployment]:
    made = Deployment(cluster, images, tmp_path, namespace())
    yield made
    if request.node.stash.get(FAILED, False):
        made.show()
