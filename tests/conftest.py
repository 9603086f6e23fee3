"""Options and order of the tests, and the one Kubernetes cluster. `tests/run.py` runs the whole suite; see tests/README.md."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.cluster import Cluster, running

KINDS = ("unit", "integration", "container", "workflow", "cluster", "gpu_image")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--soak", action="store_true", help="run only what takes long: attacks beside ordinary requests")
    parser.addoption("--run-gpu-image", action="store_true", help="build the CUDA image: 5 GB of wheels, ten minutes")


def pytest_configure(config: pytest.Config) -> None:
    """Remove what a runner sets for its steps, so that the tests see the same environment everywhere."""
    config.pluginmanager.import_plugin("tests.progress")
    for name in [one for one in os.environ if one.startswith("GITHUB_") or one in ("RUNNER_TEMP", "ACT")]:
        del os.environ[name]
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # a shell's background job ignores Ctrl-C, and so would what tests start
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put the fast kinds first, and what needs the cluster together; the soak and the CUDA image need their options."""
    top = Path(__file__).parent

    def kind(item: pytest.Item) -> int:
        return KINDS.index(item.path.relative_to(top).parts[0])

    items.sort(key=lambda item: (kind(item), item.path.name == "test_cluster.py"))
    long = [item for item in items if item.get_closest_marker("soak")]
    if config.getoption("--soak"):
        items[:] = long
    elif long:
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in long]
    if not config.getoption("--run-gpu-image"):
        skip = pytest.mark.skip(reason="builds 5 GB of CUDA wheels: `make test-gpu-image` runs it")
        for item in items:
            if KINDS[kind(item)] == "gpu_image":
                item.add_marker(skip)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Start the one cluster; a second fixture like this one, in the same process, would wait for this one's lock."""
    with running() as cluster:
        yield cluster
