"""Real act, started with the README's command, and its --json lines.

act exits with 0 when it skips a job without a platform, and interprets the output of steps; so tests look at jobs, outputs,
annotations and summaries here, never at the exit code alone. Each run has its own action cache, artifacts and environment.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests import gotools
from tests.integration.conftest import free_port
from tests.workflow.repositories import OUTPUTS_JOB

COMMAND = "act push -P ubuntu-latest=-self-hosted --artifact-server-path /tmp/act-artifacts"
"""The README's command for users; what else a test needs is in the .actrc of its home folder."""
TIMEOUT_S = 200.0
_NOISE = r"LocalRepositoryCache|⭐ Run (Pre|Post)|  ✅  Success - (Pre|Post)|  ⚙  ::set-output"
MARK = "TORCHRELAY_TEST_ACT_RUN"
_numbers = itertools.count(int(time.time()) * 1000)

Event = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """One job of a matrix. `seconds` is the time from its first to its last line."""

    id: str
    matrix: Mapping[str, Any]
    result: str
    seconds: float


@dataclass(frozen=True)
class Annotation:
    """An error, a warning or a notice, as act parsed it."""

    level: str
    message: str
    file: str
    line: str
    title: str
    job: str


@dataclass
class Run:
    """A run that has ended, or its events up to when it was killed."""

    code: int
    events: list[Event]
    err: str
    seconds: float

    @property
    def jobs(self) -> list[Job]:
        """All jobs with a result, in the order in which they ended."""
        first: dict[str, float] = {}
        for event in self.events:
            first.setdefault(event.get("job", ""), event["at"])
        ended = [event for event in self.events if "jobResult" in event and event["jobID"] != OUTPUTS_JOB]
        return [
            Job(one["jobID"], one.get("matrix") or {}, one["jobResult"], one["at"] - first[one["job"]])
            for one in ended
            if not _calls(one, self.events)
        ]

    @property
    def results(self) -> dict[str, str]:
        """Job and, where it has one, model -> result."""
        return {"/".join(filter(None, (job.id, str(job.matrix.get("model", ""))))): job.result for job in self.jobs}

    def ran(self, **expected: str) -> None:
        """Assert that exactly these jobs ran, with these results; all jobs of a matrix must have the same one."""
        results: dict[str, str] = {}
        for job in self.jobs:
            results[job.id] = job.result if results.get(job.id, "success") == "success" else results[job.id]
        assert results == expected, self.transcript

    def outputs(self, job: str) -> dict[str, str]:
        """Return the outputs that the steps of a job set."""
        return {one["name"]: one["arg"] for one in self.events if one.get("command") == "set-output" and one["jobID"] == job}

    @property
    def workflow_outputs(self) -> dict[str, str]:
        """The outputs of serve.yml that the caller's next job received; act starts no job after a called workflow that failed."""
        return self.outputs(OUTPUTS_JOB)

    @property
    def annotations(self) -> list[Annotation]:
        """Errors, warnings and notices."""
        annotations = []
        for event in self.events:
            if event.get("command") in ("error", "warning", "notice"):
                properties = {key: str((event.get("kvPairs") or {}).get(key, "")) for key in ("file", "line", "title")}
                annotations.append(Annotation(event["command"], event["arg"], job=event["jobID"], **properties))
        return annotations

    def summary(self, job: str) -> str:
        """The job's summary; act prints it once per nested action, so the same text of one step counts once."""
        seen: dict[tuple[str, str], None] = {}
        for event in self.events:
            if event.get("command") == "summary" and event["jobID"] == job:
                seen.setdefault((event["stepID"][0], event["content"]))
        return "\n".join(content for _, content in seen)

    def steps(self, job: str) -> dict[str, str]:
        """Step -> result of a job's own steps."""
        ended = [event for event in self.events if "stepResult" in event and _own_step(event, job)]
        return {event["step"]: event["stepResult"] for event in ended}

    @property
    def raw(self) -> str:
        """The whole output of the steps."""
        return "".join(event["msg"] for event in self.events if event.get("raw_output"))

    @property
    def commands(self) -> list[Event]:
        """Every workflow command that act carried out."""
        return [event for event in self.events if "command" in event]

    @property
    def transcript(self) -> str:
        """What a person needs to see of a failed test."""
        shown = [one for one in self.events if one.get("msg") and not re.match(_NOISE, one["msg"]) and "stage" in one]
        lines = [f"[{one.get('jobID', '')}] {one['msg'].rstrip()}" for one in shown]
        return f"act ended with {self.code} after {self.seconds:.1f} s, {self.results}\n" + "\n".join(lines[-400:]) + self.err


def _own_step(event: Event, job: str) -> bool:
    """Return whether a line belongs to a step of the job itself, not to a step inside an action."""
    return event.get("jobID") == job and event.get("stage") == "Main" and len(event.get("stepID", ())) == 1


def _calls(event: Event, events: list[Event]) -> bool:
    """Return whether a job calls another workflow: the names of that workflow's jobs begin with the job's name."""
    own = event["job"].rpartition("/")[2].strip()
    return any(other.get("job", "").startswith(f"{own}/") for other in events)


class Running:
    """A running act process, whose output is read as it arrives."""

    def __init__(self, process: subprocess.Popen[str], mark: str, log: Path) -> None:
        self.process, self.mark, self.log = process, mark, log
        self.began = time.monotonic()
        self.events: list[Event] = []
        self.more = threading.Condition()
        self.ended = False
        self.err: list[str] = []
        self.threads = [threading.Thread(target=self._read), threading.Thread(target=self._read_err)]
        for thread in self.threads:
            thread.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.log.open("w") as log:
            for line in self.process.stdout:
                try:
                    event = json.loads(line)
                except ValueError:
                    event = {"msg": line, "job": ""}
                event["at"] = time.monotonic() - self.began
                log.write(json.dumps(event) + "\n")
                self._add(event)
        with self.more:
            self.ended = True
            self.more.notify_all()

    def _add(self, event: Event) -> None:
        with self.more:
            self.events.append(event)
            self.more.notify_all()

    def _read_err(self) -> None:
        assert self.process.stderr is not None
        self.err.extend(self.process.stderr)

    def wait_for(self, what: str, seen: Callable[[Event], bool], seconds: float = TIMEOUT_S) -> Event:
        """Return the first event for which `seen` is true; the test fails if the run ends before."""
        deadline, looked = time.monotonic() + seconds, 0
        with self.more:
            while True:
                for event in self.events[looked:]:
                    if seen(event):
                        return event
                looked = len(self.events)
                if self.ended or time.monotonic() > deadline:
                    raise AssertionError(f"{what} was not seen\n{self.seen(-1).transcript}")
                self.more.wait(0.5)

    def step_begins(self, job: str, step: str) -> Event:
        """Wait for the start of one of a job's own steps; `step` is a part of its name or of its `uses`."""
        return self.wait_for(
            f"the start of {job}'s step {step}",
            lambda event: _own_step(event, job) and step in event["step"] and "⭐" in event["msg"],
        )

    def seen(self, code: int) -> Run:
        return Run(code, list(self.events), "".join(self.err), time.monotonic() - self.began)

    def finish(self, timeout: float = TIMEOUT_S) -> Run:
        """Wait until the run ends."""
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"act did not end within {timeout} s\n{self.seen(-1).transcript}") from None
        for thread in self.threads:
            thread.join(10)
        return self.seen(code)

    def kill(self) -> Run:
        """Send SIGKILL to act and to every process of its steps, as when a machine goes away; they have separate process groups."""
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and (pids := marked(self.mark)):
            for pid in pids:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
        self.process.wait(10)
        for thread in self.threads:
            thread.join(10)
        return self.seen(-signal.SIGKILL)


def marked(mark: str) -> list[int]:
    """Return the living processes that carry a run's mark in their environment."""
    wanted, pids = f"{MARK}={mark}".encode(), []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if wanted in (folder / "environ").read_bytes().split(b"\0") and "\nState:\tZ" not in (folder / "status").read_text():
                pids.append(int(folder.name))
        except OSError:
            continue
    return pids


@dataclass
class Act:
    """Starts act over model repositories; `flags`, `env` and the runner's tool cache are shared by all its runs."""

    program: Path
    folder: Path
    flags: list[str]
    env: dict[str, str]
    tools: Path
    started: list[Running] = field(default_factory=list)

    def start(
        self,
        repository: Path,
        event: str = "push",
        payload: Mapping[str, Any] | None = None,
        *,
        arguments: tuple[str, ...] = (),
        secrets: Mapping[str, str] | None = None,
        env: Mapping[str, str] | None = None,
        command: str = COMMAND,
        run_id: str = "",
        attempt: int = 1,
    ) -> Running:
        """Start the README's command for this event in a repository; a later `attempt` of a run has the artifacts of the first."""
        mark = str(next(_numbers))
        home = self.folder / mark
        (home / "actions").mkdir(parents=True)
        (home / "actions/tool_cache").symlink_to(self.tools)  # act says where it is, and heeds no variable
        (home / "event.json").write_text(json.dumps(payload or {}))
        values = {**self.env, "GITHUB_RUN_ID": run_id or mark, "GITHUB_RUN_ATTEMPT": str(attempt), MARK: mark, **(env or {})}
        flags = [*self.flags, "--json", "--rm", f"--action-cache-path {home}/actions", f"--eventpath {home}/event.json"]
        flags += [
            "--artifact-server-addr 127.0.0.1",
            f"--artifact-server-port {free_port()}",
        ]  # two runs at once
        flags += [f"--env {key}={value}" for key, value in values.items()]
        (home / ".actrc").write_text("".join(f"{flag}\n" for flag in flags))
        argv = [str(self.program) if word == "act" else event if word == "push" else word for word in shlex.split(command)]
        argv += [word for key, value in (secrets or {}).items() for word in ("-s", f"{key}={value}")]
        process = subprocess.Popen(
            [*argv, *arguments],
            cwd=repository,
            env={"PATH": self.env["PATH"], "HOME": str(home), MARK: mark},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self.started.append(Running(process, mark, home / "act.jsonl"))
        return self.started[-1]

    def __call__(self, repository: Path, event: str = "push", payload: Mapping[str, Any] | None = None, **more: Any) -> Run:
        """Run to the end. Of a run without a `run_id` only the log is kept, because each bundle is a whole image."""
        timeout = more.pop("timeout", TIMEOUT_S)
        running = self.start(repository, event, payload, **more)
        try:
            return running.finish(timeout)
        finally:
            self.forget(running)

    def forget(self, running: Running) -> None:
        """Remove the files of a run that has ended, except its log."""
        shutil.rmtree(running.log.parent / "actions", ignore_errors=True)
        shutil.rmtree(self.artifacts(running), ignore_errors=True)

    def artifacts(self, running: Running) -> Path:
        """The folder of a run's artifacts, by attempt."""
        return Path(self.env["ACT_ARTIFACTS"], running.mark)

    def end_all(self) -> None:
        """Kill everything that still runs, including steps that outlived their run, and remove the files of all runs."""
        for running in self.started:
            running.kill()
            self.forget(running)
        shutil.rmtree(self.env["ACT_ARTIFACTS"], ignore_errors=True)


def installed() -> Path:
    """Return act's path; it is built first if it is missing."""
    return gotools.ensure("act")
