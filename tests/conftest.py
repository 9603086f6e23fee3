"""Order and options of the whole suite: the fastest kind of test first, what takes gigabytes only when asked for."""

import os
import time
from pathlib import Path

import pytest
from _pytest.terminal import TerminalReporter
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

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
    """Says at once what failed, and when each file of the slow kinds began: a run that is cut short has no summary."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.files: set[str] = set()

    def line(self, text: str) -> None:
        """Write into the run's own output, between its dots."""
        reporter = self.config.pluginmanager.get_plugin("terminalreporter")
        assert isinstance(reporter, TerminalReporter)
        reporter.ensure_newline()
        reporter.write_line(text)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """See the class."""
        seconds, file = time.monotonic() - STARTED, report.nodeid.partition("::")[0]
        if file not in self.files and file.split("/")[1] in SLOW:
            self.files.add(file)
            self.line(f"{seconds:5.0f} s  {file}")
        if report.failed:
            self.line(f"{report.nodeid} failed after {seconds:.0f} s\n{report.longreprtext}")


class Queues(LoadScopeScheduling):  # type: ignore[misc] # xdist has no types
    """With `-n 2`: what is in one queue runs one after another, in one process.

    Tests of containers share nothing with those of the workflows and the cluster but the daemon. (xdist's own
    groups, `--dist loadgroup`, do not work with pytest 9.2: names of tests cannot be changed any more.)
    """

    def _split_scope(self, nodeid: str) -> str:
        parts = nodeid.partition("::")[0].split("/")[1:]
        if parts[0] in SLOW:
            return "containers" if parts[0] == "container" else "workflows and cluster"
        return "fastai" if "fastai" in parts else nodeid


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
