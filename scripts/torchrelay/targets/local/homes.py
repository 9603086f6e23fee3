"""The folders of the local target's versions and the processes that serve them."""

import hashlib
import logging
import os
import shutil
import time
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
from torchrelay.targets.local.processes import Process

log = logging.getLogger(__name__)
POLL_S = 0.1
START_MARGIN_S = 30.0
STOP_MARGIN_S = 10.0
LONGEST_STATE = 75
"""TorchServe puts a unix socket some 30 characters below the state folder, and a socket's path holds 107."""


@dataclass(frozen=True)
class Running:
    """run.json: the process that serves the version in folder `home`, its port and the folder of its state."""

    home: str
    process: Process
    port: int
    state: Path


class Homes:
    """`.torchrelay/local/<digest>/` of one model directory: model/, deps/, serving.json, run.json (its process), server.log."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.model = context.model
        self.folder = Workspace(context.model_dir).root / "local"

    def running(self, handle: str) -> Running | None:
        """Return the process that serves a version, None when none does."""
        found = read_json(self.folder / handle / "run.json")
        try:
            running = Running(handle, Process(**found["process"]), int(found["port"]), Path(found["state"]))
        except (TypeError, KeyError, ValueError):
            return None
        return running if running.process.alive() else None

    def status(self, running: Running | None) -> tuple[State, str]:
        """Return what the runtime published of a process, and why."""
        if running is None:
            return "stopped", "its process has ended: deploy again"
        for name in ("draining.json", "status.json"):
            found = read_json(running.state / name)
            if isinstance(found, dict):
                reason = str(found.get("reason", ""))
                return ("ready", "") if found.get("ready") else ("failed" if found.get("failed") else "not_ready", reason)
        return "not_ready", "the server is starting"

    def start(self, home: Path, server: environment.Server, port: int) -> Running:
        """Start a version on a port, without waiting for it."""
        state = self.state_root() / f"{home.name[:8]}-{port}"
        state.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        shutil.rmtree(state, ignore_errors=True)  # a killed supervisor's says "ready" still
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
        running = Running(home.name, processes.start(argv, env, home, home / "server.log"), port, state)
        write_json(home / "run.json", {"process": asdict(running.process), "port": port, "state": str(state)})
        return running

    def wait_ready(self, running: Running) -> None:
        """Wait until a worker has answered.

        Raises GateFailed with the traceback in the log, or its end.
        """
        begin, failure = time.monotonic(), None
        while failure is None:
            state, reason = self.status(running)
            if state == "ready":
                log.info("ready after %.1f s", time.monotonic() - begin)
                return
            if not running.process.alive():
                failure = GateFailed("the server ended before it was ready")
            elif state == "failed":
                failure = GateFailed(f"the model does not load: {reason}")
            elif time.monotonic() - begin > self.model.timeouts.startup_s + START_MARGIN_S:
                what = f"not ready after {time.monotonic() - begin:.0f} s; last state: {reason}"
                failure = GateFailed(what, "raise timeouts.startup_s in model.yaml if it needs longer")
            time.sleep(POLL_S)
        raise contract.explained(failure, self.log_of(running.home), lines=25)

    def stop(self, handle: str) -> None:
        """End a version's process, after the requests in flight."""
        running = self.running(handle)
        if running is not None:
            processes.stop(running.process, self.model.timeouts.drain_s + STOP_MARGIN_S)
            shutil.rmtree(running.state, ignore_errors=True)
        (self.folder / handle / "run.json").unlink(missing_ok=True)

    def end_strays(self, live: Running | None) -> None:
        """End what a run that was killed, or a killed supervisor, left behind."""
        for home in self.folder.glob("*/run.json"):
            if live is None or home.parent.name != live.home:
                self.stop(home.parent.name)
        family = {live.process, *processes.descendants(live.process.pid)} if live else set()
        strays = processes.with_state_below(self.state_root()) - family
        if strays:
            log.info("ending %d processes that an interrupted run left behind", len(strays))
            processes.kill(strays)

    def log_of(self, handle: str) -> str:
        """Return the log of a version's last start."""
        with suppress(OSError):
            return (self.folder / handle / "server.log").read_text(errors="replace")
        return ""

    def state_root(self) -> Path:
        """Return the folder of the states of this model directory's processes, short enough for a socket below it."""
        own = hashlib.sha256(str(self.context.model_dir.resolve()).encode()).hexdigest()[:10]
        root = self.context.cache.resolve() / "run" / own
        if len(str(root)) + 16 > LONGEST_STATE:
            root = Path("/tmp") / f"torchrelay-{os.getuid()}" / own  # noqa: S108 -- made with mode 700, refused if not ours
            root.parent.mkdir(mode=0o700, exist_ok=True)
            if root.parent.is_symlink() or root.parent.stat().st_uid != os.getuid():
                raise DeployFailed(f"{root.parent} belongs to somebody else", "set TORCHRELAY_CACHE to a short path")
        return root
