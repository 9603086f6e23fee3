"""A pytest plugin that prints a failure at once and writes an event file, from which tests/run.py sums up several processes.

The event file (named by TORCHRELAY_TEST_EVENTS; none without it) has one JSON object per line: `test` is the test's id, `event` is
"start", "passed", "failed", "skipped" or "end", `at_s` is the system's monotonic clock in seconds. The last object has the event
"session end". The file is written as things happen, so it also describes a process that was killed.
"""

import json
import os
import time
from pathlib import Path

import pytest

EVENTS_VARIABLE = "TORCHRELAY_TEST_EVENTS"


def pytest_configure(config: pytest.Config) -> None:
    """Register the plugin proper; the variable is removed so that a pytest that a test starts does not write to this file."""
    file = os.environ.pop(EVENTS_VARIABLE, None)
    config.pluginmanager.register(Progress(config, Path(file) if file else None))


class Progress:
    """Follows the tests of one pytest process."""

    def __init__(self, config: pytest.Config, events: Path | None) -> None:
        self._config = config
        self._events = events
        self._started = time.monotonic()

    def _write(self, test: str, event: str) -> None:
        if self._events is not None:
            with self._events.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"test": test, "event": event, "at_s": time.monotonic()}) + "\n")

    def _print_failure(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        reporter = self._config.pluginmanager.get_plugin("terminalreporter")
        assert isinstance(reporter, pytest.TerminalReporter)
        reporter.ensure_newline()
        reporter.write_line(f"FAILED after {time.monotonic() - self._started:.0f} s: {report.nodeid}\n{report.longreprtext}")

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Count a test file that cannot be imported as a failed test."""
        if report.failed:
            self._write(report.nodeid, "failed")
            self._print_failure(report)

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Note that a test begins."""
        self._write(nodeid, "start")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note the outcome of a test's setup, call or teardown; of those that pass, only the call counts."""
        if report.failed:
            self._write(report.nodeid, "failed")
            self._print_failure(report)
        elif report.skipped or report.when == "call":
            self._write(report.nodeid, report.outcome)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        """Note that a test has ended, teardown included."""
        self._write(nodeid, "end")

    def pytest_sessionfinish(self) -> None:
        """Note that pytest ran to its end; a process that a test ends with os._exit(0) does not, and its exit status is 0."""
        self._write("", "session end")
