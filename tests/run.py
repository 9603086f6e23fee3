"""Run the whole suite: one plain pytest process per kind of test, two at a time; `make test` and .ci/run call it.

    python -m tests.run [PYTEST OPTIONS]

The fast kinds come first. Tests that share costly session fixtures belong to one kind. Every output line is
prefixed with its kind, and a failure is printed as it happens. Ctrl-C (or TERM) is passed on to the running processes, which then
print what they have. The end lists when each kind ran and which tests had not ended; the last line of all is
`N passed, N failed, N skipped`. A test that had not ended counts as failed, and so does a kind that ended badly without a failed
test (a crash, nothing collected, not run at all): 0 failed means that everything ran. Exit code 0 then, otherwise 1.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from tests.progress import EVENTS_VARIABLE

ROOT = Path(__file__).parents[1]
PROCESSES = 2
GRACE_S = 90
"""How long an interrupted pytest has to tear down and print; shorter than the 120 s after which .ci/run kills everything."""
SAME_SIGNAL_S = 2
"""`timeout` sends its signal to its child and to the whole group: two that arrive this close together are one."""


@dataclass(frozen=True)
class Kind:
    """Tests that run in one process, one after another."""

    name: str
    arguments: tuple[str, ...]


FASTAI = "tests/integration/fastai"
NEEDS_CLUSTER = "tests/workflow/test_cluster.py"
DOCKER_TARGET = ("tests/container/test_target_docker.py", "tests/container/test_target_order.py")
"""A part of tests/container in a separate process: both processes then end at about the same time."""
KINDS = (
    Kind("unit", ("tests/unit",)),
    Kind("integration", ("tests/integration", f"--ignore={FASTAI}")),
    Kind("fastai", (FASTAI,)),
    Kind("container", ("tests/container", "tests/gpu_image", *(f"--ignore={file}" for file in DOCKER_TARGET))),
    Kind("workflow", ("tests/workflow", f"--ignore={NEEDS_CLUSTER}")),
    Kind("cluster", (NEEDS_CLUSTER, "tests/cluster")),  # late: on a new machine its programs are built while the others run
    Kind("docker target", DOCKER_TARGET),
)


@dataclass
class Result:
    """One kind's process: its exit status (None: it was not started) and what its event file says; times on the monotonic clock."""

    kind: Kind
    status: int | None = None
    started_s: float = 0.0
    ended_s: float = 0.0
    outcomes: dict[str, str] = field(default_factory=dict)
    not_ended: dict[str, float] = field(default_factory=dict)
    complete: bool = False

    def read(self, events: Path) -> None:
        """Fill in outcomes and unended tests; a last line that a killed process did not complete is ignored."""
        for line in events.read_text(encoding="utf-8").split("\n")[:-1]:
            entry = json.loads(line)
            test, event = entry["test"], entry["event"]
            if event == "start":
                self.not_ended[test] = entry["at_s"]
            elif event == "end":
                self.not_ended.pop(test, None)
            elif event == "session end":
                self.complete = True
            elif self.outcomes.get(test) != "failed":
                self.outcomes[test] = event
        self.outcomes.update(dict.fromkeys(self.not_ended, "failed"))

    @property
    def counts(self) -> Counter[str]:
        """Tests per outcome; a bad end that no failed test explains counts as a failed one."""
        counts = Counter(self.outcomes.values())
        if (self.status != 0 or not self.complete) and not counts["failed"]:
            counts["failed"] = 1
        return counts

    def describe(self, start_s: float) -> str:
        """Return the row of the closing table."""
        if self.status is None:
            return f"{self.kind.name}: not run"
        ended = f"ended with {self.status}" if self.status >= 0 else f"killed by signal {-self.status}"
        if not self.complete:
            ended += " before its end"
        times = f"{self.started_s - start_s:.0f} s to {self.ended_s - start_s:.0f} s"
        return f"{self.kind.name}: {times}, {len(self.outcomes)} tests, {ended}"


class Suite:
    """Runs kinds, `PROCESSES` at a time, in order."""

    def __init__(self, kinds: Sequence[Kind], options: Sequence[str], root: Path) -> None:
        self._results = [Result(kind) for kind in kinds]
        self._options = options
        self._root = root
        self._running: set[subprocess.Popen[str]] = set()
        self._lock = threading.RLock()  # the signal handler runs in the main thread, which may hold it
        self._interrupted_s: float | None = None

    def interrupt(self, _number: int = 0, _frame: FrameType | None = None) -> None:
        """Pass a Ctrl-C on to every running process, and start no further one."""
        with self._lock:
            now = time.monotonic()
            if self._interrupted_s is not None and now - self._interrupted_s < SAME_SIGNAL_S:
                return
            if self._interrupted_s is None:
                killer = threading.Timer(GRACE_S, self._kill)
                killer.daemon = True
                killer.start()
            self._interrupted_s = now
            for process in self._running:
                process.send_signal(signal.SIGINT)

    def _kill(self) -> None:
        with self._lock:
            for process in self._running:
                print(f"process {process.pid} did not end {GRACE_S} s after the interrupt: killed", flush=True)
                os.killpg(process.pid, signal.SIGKILL)

    def _start(self, kind: Kind, events: Path) -> subprocess.Popen[str] | None:
        with self._lock:
            if self._interrupted_s is not None:
                return None
            events.touch()
            process = subprocess.Popen(
                [sys.executable, "-u", "-m", "pytest", "-p", "tests.progress", *kind.arguments, *self._options],
                cwd=self._root,
                env={**os.environ, EVENTS_VARIABLE: str(events)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                start_new_session=True,  # so that a Ctrl-C arrives once, from here
            )
            self._running.add(process)
            return process

    def _run_kind(self, result: Result, events: Path) -> None:
        process = self._start(result.kind, events)
        if process is None:
            return
        result.started_s = time.monotonic()
        assert process.stdout is not None
        copy = threading.Thread(target=self._copy, args=(result.kind.name, process), daemon=True)
        copy.start()
        result.status = process.wait()
        result.ended_s = time.monotonic()
        with self._lock:
            self._running.discard(process)
        copy.join(5)  # what a killed process leaves behind may keep its output open
        result.read(events)

    @staticmethod
    def _copy(name: str, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            sys.stdout.write(f"[{name}] {line.rstrip()}\n")
            sys.stdout.flush()

    def run(self) -> int:
        """Run all kinds, print the summary, return the exit code."""
        start_s = time.monotonic()
        with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(PROCESSES) as pool:
            jobs = [pool.submit(self._run_kind, result, Path(folder) / result.kind.name) for result in self._results]
            for job in jobs:
                job.result()
        total: Counter[str] = Counter()
        print("when each kind ran:")
        for result in self._results:
            print(f"  {result.describe(start_s)}")
            for test, began_s in result.not_ended.items():
                print(f"    began at {began_s - start_s:.0f} s and had not ended: {test}")
            total.update(result.counts)
        for result in self._results:
            for test, outcome in result.outcomes.items():
                if outcome == "failed":
                    print(f"failed: {test}")
        print(f"{total['passed']} passed, {total['failed']} failed, {total['skipped']} skipped", flush=True)
        return int(total["failed"] > 0 or self._interrupted_s is not None)


def main(kinds: Sequence[Kind] = KINDS, root: Path = ROOT) -> int:
    """Run the suite until it ends or is interrupted."""
    suite = Suite(kinds, sys.argv[1:], root)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, suite.interrupt)
    return suite.run()


if __name__ == "__main__":
    sys.exit(main())
