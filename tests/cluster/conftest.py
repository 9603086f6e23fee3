"""A namespace under restricted Pod Security for each test, in the one cluster. Nothing is skipped: without root, tests fail."""

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
    """Images over the runtime image; the node pulls it here once, so that no test waits for that gigabyte."""
    images = Images(cluster.registry, ensure_runtime(cpu_settings(), Quiet()))
    reference, _ = images.of("answers_as_requested", "one")
    cluster.run("run", "pull", f"--image={reference}", "--restart=Never", "--command", "--", "true")
    poll(
        "the first pull", lambda: "Succeeded" in cluster.run("get", "pod", "pull", "--output=jsonpath={.status.phase}").stdout, 300
    )
    cluster.run("delete", "pod", "pull", "--wait=false")
    return images


@pytest.fixture(autouse=True)
def kubeconfig(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "cluster" in request.fixturenames:
        monkeypatch.setenv("KUBECONFIG", str(request.getfixturevalue("cluster").kubeconfig))


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[Callable[[], str]]:
    """Creates namespaces that accept restricted pods only."""
    names: list[str] = []

    def make() -> str:
        name = f"test-{secrets.token_hex(3)}"
        cluster.run("create", "namespace", name)
        names.append(name)
        cluster.run("label", "namespace", name, "pod-security.kubernetes.io/enforce=restricted")
        return name

    yield make
    for name in names:
        cluster.run("delete", "namespace", name, "--wait=false")


@pytest.fixture
def deployment(
    cluster: Cluster, images: Images, namespace: Callable[[], str], tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Deployment]:
    deployment = Deployment(cluster, images, tmp_path, namespace())
    yield deployment
    if request.node.stash.get(FAILED, False):
        deployment.show()
