"""The local target's versions: their folders, and the processes that serve them."""

import hashlib
import logging
import os
import shutil
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from torchrelay.core import paths
from torchrelay.core.errors import DeployFailed, GateFailed
from torchrelay.core.files import read_json, write_json
from torchrelay.core.workspace import Workspace
from torchrelay.targets import contract
from torchrelay.targets.contract import Context, State
from torchrelay.targets.local import environment, processes
from torchrelay.targets.local.processes import DetachedProcess
from torchrelay.verification.prober import Readiness
from torchrelay.verification.ready import START_MARGIN_S, wait_ready

log = logging.getLogger(__name__)
POLL_S = 0.1
STOP_MARGIN_S = 10.0
LONGEST_STATE = 75
"""TorchServe creates a unix socket about 30 characters below the state folder, and a socket's path may have 107."""


@dataclass(frozen=True)
class RunningVersion:
    """run.json: the process that serves the version in folder `handle`, its port and the folder of its state."""

    handle: str
    process: DetachedProcess
    port: int
    state: Path


class Versions:
    """`.torchrelay/local/<digest>/` of one model directory: model/, deps/, serving.json, run.json (its process), server.log."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.model = context.model
        self.folder = Workspace(context.model_dir).root / "local"

    def running(self, handle: str) -> RunningVersion | None:
        """Return the process that serves a version, None when none does."""
        document = read_json(self.folder / handle / "run.json")
        try:
            running = RunningVersion(handle, DetachedProcess(**document["process"]), int(document["port"]), Path(document["state"]))
        except (TypeError, KeyError, ValueError):
            return None
        return running if running.process.alive() else None

    def status(self, running: RunningVersion | None) -> tuple[State, str]:
        """Return the state that the runtime published for a process, and the reason."""
        if running is None:
            return "stopped", "its process has ended: deploy again"
        for name in ("draining.json", "status.json"):
            status = read_json(running.state / name)
            if isinstance(status, dict):
                reason = str(status.get("reason", ""))
                return ("ready", "") if status.get("ready") else ("failed" if status.get("failed") else "not_ready", reason)
        return "not_ready", "the server is starting"

    def start(self, home: Path, server: environment.ServerEnvironment, port: int) -> RunningVersion:
        """Start a version on a port, without waiting for it."""
        state = self.state_root() / f"{home.name[:8]}-{port}"
        state.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        shutil.rmtree(state, ignore_errors=True)  # that of a killed supervisor still says "ready"
        env = environment.for_server(os.environ) | {
            "PYTHONPATH": str(paths.RUNTIME),
            "TORCHRELAY_SERVING": str((home / "serving.json").resolve()),
            "TORCHRELAY_PORT": str(port),
            "TORCHRELAY_FRONT": "none",
            "TORCHRELAY_STATE": str(state),
            **({"JAVA_HOME": server.java_home} if server.java_home else {}),
        }
        log.info("starting version %s on port %d", home.name, port)
        argv = [str(server.python), "-P", "-m", f"{paths.RUNTIME_PACKAGE}.entrypoint"]
        running = RunningVersion(home.name, processes.start(argv, env, home, home / "server.log"), port, state)
        write_json(home / "run.json", {"process": asdict(running.process), "port": port, "state": str(state)})
        return running

    def wait_ready(self, running: RunningVersion) -> None:
        """Wait until a worker has answered.

        Raises GateFailed with the traceback in the log, otherwise the log's end.
        """

        def ask() -> Readiness:
            state, reason = self.status(running)
            if state != "ready" and not running.process.alive():
                raise GateFailed("the server ended before it was ready")
            return Readiness(state == "ready", reason, state == "failed")

        def read_log(lines: int | None) -> str:
            log_lines = self.log_of(running.handle).splitlines()
            return "\n".join(log_lines if lines is None else log_lines[-lines:])

        try:
            seconds = wait_ready(ask, read_log, self.model.timeouts.startup_s + START_MARGIN_S, poll_s=POLL_S)
        except GateFailed as failure:
            raise contract.explained(failure, self.log_of(running.handle), lines=25) from failure
        log.info("ready after %.1f s", seconds)

    def stop(self, handle: str) -> None:
        """End a version's process, once its requests in flight are answered."""
        running = self.running(handle)
        if running is not None:
            processes.stop(running.process, self.model.timeouts.drain_s + STOP_MARGIN_S)
            shutil.rmtree(running.state, ignore_errors=True)
        (self.folder / handle / "run.json").unlink(missing_ok=True)

    def end_strays(self, live: RunningVersion | None) -> None:
        """End the processes that a killed run or a killed supervisor left behind."""
        for home in self.folder.glob("*/run.json"):
            if live is None or home.parent.name != live.handle:
                self.stop(home.parent.name)
        family = {live.process, *processes.descendants(live.process.pid)} if live else set()
        strays = processes.with_state_below(self.state_root()) - family
        if strays:
            log.info("ending %d processes that an interrupted run left behind", len(strays))
            processes.kill(strays)

    def sweep(self, keep: set[str]) -> None:
        """Remove the folders of all versions but some, and the states of processes that are gone: a killed run leaves both."""
        for home in self.folder.glob("*/"):
            if home.name not in keep:
                self.stop(home.name)
                shutil.rmtree(home, ignore_errors=True)
        used = {running.state for handle in keep if (running := self.running(handle))}
        for state in self.state_root().glob("*/"):
            if state not in used:
                shutil.rmtree(state, ignore_errors=True)

    def log_of(self, handle: str) -> str:
        """Return the log of a version's last start."""
        with suppress(OSError):
            return (self.folder / handle / "server.log").read_text(errors="replace")
        return ""

    def state_root(self) -> Path:
        """Return the folder for the states of this model directory's processes, short enough for a socket below it."""
        name = hashlib.sha256(str(self.context.model_dir.resolve()).encode()).hexdigest()[:10]
        root = self.context.cache.resolve() / "run" / name
        if len(str(root)) + 16 > LONGEST_STATE:
            root = Path("/tmp") / f"torchrelay-{os.getuid()}" / name  # noqa: S108 -- created with mode 700, refused if it belongs to another user
            root.parent.mkdir(mode=0o700, exist_ok=True)
            if root.parent.is_symlink() or root.parent.stat().st_uid != os.getuid():
                raise DeployFailed(f"{root.parent} belongs to another user", "set TORCHRELAY_CACHE to a short path")
        return root
