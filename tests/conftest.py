"""Order and options of the whole suite: the fastest kind of test first, what takes gigabytes only when asked for."""

import os
import time
from collections.abc import Generator
from pathlib import Path

import pytest
from _pytest.terminal import TerminalReporter

STARTED = time.monotonic()
KINDS = ("unit", "integration", "container", "workflow", "cluster", "gpu_image")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--run-gpu-image", action="store_true", help="build the CUDA image: 5 GB of wheels, ten minutes")


def pytest_configure() -> None:
    """Take away what a runner tells its steps: the tests of that say it themselves."""
    for name in [one for one in os.environ if one.startswith("GITHUB_") or one in ("RUNNER_TEMP", "ACT")]:
        del os.environ[name]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    top = Path(__file__).parent

    def kind(item: pytest.Item) -> int:
        return KINDS.index(item.path.relative_to(top).parts[0])

    items.sort(key=kind)
    if not config.getoption("--run-gpu-image"):
        skip = pytest.mark.skip(reason="builds 5 GB of CUDA wheels: `make test-gpu-image` runs it")
        for item in items:
            if KINDS[kind(item)] == "gpu_image":
                item.add_marker(skip)


def line(item: pytest.Item, text: str) -> None:
    """Write into the run's own output, between its dots."""
    reporter = item.config.pluginmanager.get_plugin("terminalreporter")
    assert isinstance(reporter, TerminalReporter)
    reporter.ensure_newline()
    reporter.write_line(text)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Say at once what failed and when: a run that is cut short has no summary."""
    report = yield
    if report.failed:
        line(item, f"{item.nodeid} failed after {time.monotonic() - STARTED:.0f} s\n{report.longreprtext}")
    return report
