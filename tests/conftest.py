"""Order and options of the whole suite: the fastest kind of test first, what takes gigabytes only when asked for."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from _pytest.terminal import TerminalReporter
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from tests.cluster.cluster import Cluster, running

STARTED = time.monotonic()
KINDS = ("unit", "integration", "container", "workflow", "cluster", "gpu_image")
SLOW = KINDS[2:]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--run-gpu-image", action="store_true", help="build the CUDA image: 5 GB of wheels, ten minutes")


def pytest_configure(config: pytest.Config) -> None:
    """Take away what a runner tells its steps: the tests of that say it themselves."""
    for name in [one for one in os.environ if one.startswith("GITHUB_") or one in ("RUNNER_TEMP", "ACT")]:
        del os.environ[name]
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Told(config))


class Told:
    """Says at once what failed, and at the end when each queue ran: also of a run that is cut short."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.running: dict[str, float] = {}
        self.queues: dict[str, list[float]] = {}

    def line(self, text: str) -> None:
        """Write into the run's own output, between its dots."""
        reporter = self.config.pluginmanager.get_plugin("terminalreporter")
        assert isinstance(reporter, TerminalReporter)
        reporter.ensure_newline()
        reporter.write_line(text)

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """See the class."""
        self.running[nodeid] = time.monotonic() - STARTED

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """See the class."""
        if report.failed:
            self.line(f"{report.nodeid} failed after {time.monotonic() - STARTED:.0f} s\n{report.longreprtext}")

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        """See the class."""
        self.queues.setdefault(queue(nodeid), []).extend((self.running.pop(nodeid), time.monotonic() - STARTED))

    def pytest_terminal_summary(self, terminalreporter: TerminalReporter) -> None:
        """See the class."""
        terminalreporter.section("when each queue ran")
        for name, times in self.queues.items():
            tests, began, ended = len(times) // 2, min(times), max(times)
            terminalreporter.write_line(f"{began:5.0f} s to {ended:5.0f} s  {name}, {tests} tests")
        for nodeid, began in self.running.items():
            terminalreporter.write_line(f"{began:5.0f} s, not ended  {nodeid}")


def queue(nodeid: str) -> str:
    """Return the queue of a test: what shares a session's costly fixtures, containers or the cluster."""
    folders = nodeid.partition("::")[0].split("/")[1:]
    if folders[-1] == "test_cluster.py":
        return "cluster"
    return folders[0] if folders[0] in SLOW or "fastai" not in folders else "fastai"


class Queues(LoadScopeScheduling):  # type: ignore[misc] # xdist has no types
    """With `-n 2`: a queue of the slow kinds runs in one process, one test after another; any process takes the fast ones.

    (xdist's own groups, `--dist loadgroup`, do not work with pytest 9.2: names of tests cannot be changed any more.)
    """

    def _split_scope(self, nodeid: str) -> str:
        name = queue(nodeid)
        return nodeid if name in KINDS[:2] else str(name)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Queues:
    """See `Queues`; the fast ones come first."""
    config.option.loadscopereorder = False
    return Queues(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    top = Path(__file__).parent

    def kind(item: pytest.Item) -> int:
        return KINDS.index(item.path.relative_to(top).parts[0])

    # what needs the cluster comes last: on a new machine its programs are still being built when the slow ones begin
    items.sort(key=lambda item: (kind(item), item.path.name == "test_cluster.py"))
    if not config.getoption("--run-gpu-image"):
        skip = pytest.mark.skip(reason="builds 5 GB of CUDA wheels: `make test-gpu-image` runs it")
        for item in items:
            if KINDS[kind(item)] == "gpu_image":
                item.add_marker(skip)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Start the one cluster; a second definition of this fixture would wait for the first one's lock for ever."""
    with running() as made:
        yield made
