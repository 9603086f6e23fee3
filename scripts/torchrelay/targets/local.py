"""The local target: TorchServe as a process of this machine, without Docker; for laptops and demos.

A new version starts on a free port and answers the samples there; only then the old one is stopped and the new one is started
on the declared port. So requests fail for the seconds between: who cannot have that takes the docker target.

    .torchrelay/local/<digest>/    one version: model/ (unpacked), deps/, serving.json, run.json (its process), server.log
"""

import hashlib
import logging
import os
import shutil
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from torchrelay import layout, mar, server_env
from torchrelay.errors import DeployFailed, GateFailed, PortTaken, RollbackFailed, RolledBack
from torchrelay.probe import HttpProber, ProbeAnswer, ProbeRequest
from torchrelay.samples import Sample
from torchrelay.targets import contract, processes
from torchrelay.targets.contract import Context, Deployed, Endpoint, Plan, Record, Release, State
from torchrelay.targets.processes import Process
from torchrelay.workspace import Workspace, read_json, write_json

log = logging.getLogger(__name__)
NAME = "local"
HOST = "127.0.0.1"
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


class LocalTarget:
    """See `contract.Target`."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.model = context.model
        self.port = context.model.targets.local.port
        self.homes = Workspace(context.model_dir).root / "local"
        self.drain_s = self.model.timeouts.drain_s + STOP_MARGIN_S

    def plan(self, release: Release) -> Plan:
        """See `contract.Target`."""
        live = self._live()
        if live is not None and live.digest == release.digest and self._running(live.handle):
            return Plan(unchanged=True, steps=(f"keep the process that serves {release.digest}",))
        steps = [f"make the server environment in {self.context.cache / 'server'}, if it is not there"]
        if live is not None:
            steps.append(f"start {release.digest[:19]} on a free port and prove it with {len(release.samples)} samples")
            steps.append(f"stop {live.digest[:19]}")
        steps.append(f"start {release.digest[:19]} on port {self.port} and send {len(release.samples)} samples")
        return Plan(unchanged=False, steps=tuple(steps))

    def apply(self, release: Release) -> Endpoint:
        """See `contract.Target`."""
        server = server_env.ensure_server(self.context.cache, server_env.ServerSettings.from_environment(), self.context.progress)
        record = contract.read_record(self.context, NAME)
        live = self._live()
        running = self._running(live.handle) if live else None
        self._end_strays(running)
        if live and running and live.digest == release.digest and running.port == self.port:
            if self._status(running)[0] == "ready" and contract.still_right(self._prober(), self.model, release.samples):
                return replace(self.status(), skipped=True)
            log.warning("the running process does not answer its samples any more: starting it anew")
            self._stop(live.handle)
            running = None
        home = self._unpacked(release, server)
        if running is not None and running.home == home.name:  # the same version, on another port than is declared now
            self._require_port()
            self._stop(home.name)
            running = None
        new = Deployed.now(release.digest, release.version, home.name)
        if running is None or running.port != self.port:
            self._require_port()
        elif live is not None:
            self._prove(home, server, _free_port(), release.samples)
            self._stop(home.name)
        self._replace(new, server, live if running else None, release.samples)
        if running is not None and running.port != self.port and live is not None:
            self._stop(live.handle)
        kept = record.previous if live is None or live.handle == new.handle else live
        self._commit(new, kept)
        return self.status()

    def status(self) -> Endpoint:
        """See `contract.Target`."""
        live, previous = self._live(), contract.read_record(self.context, NAME).previous
        before = previous.digest if previous and (self.homes / previous.handle / "serving.json").exists() else ""
        running = self._running(live.handle) if live else None
        url = f"http://{HOST}:{running.port if running else self.port}{contract.predict_path(self.model)}"
        if live is None:
            return Endpoint(NAME, url, "", "", "absent", previous=before)
        state, detail = self._status(running)
        return Endpoint(NAME, url, live.digest, live.version, state, detail, before)

    def verify(self, samples: Sequence[Sample]) -> None:
        """See `contract.Target`."""
        contract.prove(self._prober(), self.model, samples, lambda: self.logs(10_000))

    def invoke(self, request: ProbeRequest, timeout_s: float = 60.0) -> ProbeAnswer:
        """See `contract.Target`."""
        return self._prober().send([request], 1, timeout_s)[0]

    def logs(self, lines: int = 200) -> str:
        """See `contract.Target`."""
        live = self._live()
        return "" if live is None else "\n".join(self._log(live.handle).splitlines()[-lines:])

    def rollback(self) -> Endpoint:
        """See `contract.Target`."""
        record = contract.read_record(self.context, NAME)
        live, previous = self._live(), record.previous
        if previous is None or not (self.homes / previous.handle / "serving.json").exists():
            raise DeployFailed(f"{self.model.name}: there is no previous version", "deploy the version you want")
        server = server_env.ensure_server(self.context.cache, server_env.ServerSettings.from_environment(), self.context.progress)
        if live is None or self._running(live.handle) is None:
            self._require_port()
        try:
            self._replace(previous, server, live, ())
        except RolledBack as failure:
            what = f"the previous version does not come up: {failure.message}"
            raise RollbackFailed(what, failure.fix) from failure
        self._commit(previous, live)
        return self.status()

    def delete(self) -> bool:
        """See `contract.Target`."""
        found = self.homes.exists()
        self._end_strays(None)
        shutil.rmtree(self.homes, ignore_errors=True)
        contract.forget_record(self.context, NAME)
        return found

    def _live(self) -> Deployed | None:
        """Return the version that serves, or should: what was written down, as a process is what it was started as."""
        return contract.read_record(self.context, NAME).current

    def _running(self, handle: str) -> Running | None:
        found = read_json(self.homes / handle / "run.json")
        try:
            running = Running(handle, Process(**found["process"]), int(found["port"]), Path(found["state"]))
        except (TypeError, KeyError, ValueError):
            return None
        return running if running.process.alive() else None

    def _status(self, running: Running | None) -> tuple[State, str]:
        if running is None:
            return "stopped", "its process has ended: deploy again"
        for name in ("draining.json", "status.json"):
            found = read_json(running.state / name)
            if isinstance(found, dict):
                reason = str(found.get("reason", ""))
                return ("ready", "") if found.get("ready") else ("failed" if found.get("failed") else "not_ready", reason)
        return "not_ready", "the server is starting"

    def _prober(self) -> HttpProber:
        live = self._live()
        running = self._running(live.handle) if live else None
        return HttpProber(f"http://{HOST}:{running.port if running else self.port}")

    def _unpacked(self, release: Release, server: server_env.Server) -> Path:
        """Return the folder of a version, made when it is not there; it appears whole or not at all."""
        home = self.homes / release.digest.removeprefix("sha256:")[:12]
        if (home / "serving.json").exists():
            return home
        if release.archive is None:
            raise DeployFailed("the local target needs the archive", "run `torchrelay archive` first")
        Workspace(self.context.model_dir).ensure()
        shutil.rmtree(home, ignore_errors=True)
        try:
            mar.unpack(release.archive, home / "model")
            deps = self._dependencies(home, server)
            serving = {**release.serving, "model_dir": str((home / "model").resolve()), "deps_dir": deps}
            write_json(home / "serving.json", serving)
        except BaseException:
            shutil.rmtree(home, ignore_errors=True)
            raise
        return home

    def _dependencies(self, home: Path, server: server_env.Server) -> str | None:
        """Install the model's requirements beside it, not into the shared environment; what that has is counted, and kept."""
        if not self.model.requirements:
            return None
        settings = server_env.ServerSettings.from_environment()
        (home / "constraints.txt").write_text(f"torch=={settings.torch_version}\n")
        requirements = self.context.model_dir / self.model.requirements
        options = [
            "--prefix",
            str(home / "deps"),
            "--constraint",
            str(home / "constraints.txt"),
            "--requirement",
            str(requirements),
        ]
        server_env.pip_install(server.python, options, self.context.progress, f"installing {self.model.requirements}")
        sites = sorted((home / "deps" / "lib").glob("python3*/site-packages"))
        return str(sites[0].resolve()) if sites else None

    def _start(self, home: Path, server: server_env.Server, port: int) -> Running:
        state = self._state_root() / f"{home.name[:8]}-{port}"
        state.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        shutil.rmtree(state, ignore_errors=True)  # a killed supervisor's says "ready" still
        env = server_env.passed_on(os.environ) | {
            "TORCHRELAY_SERVING": str((home / "serving.json").resolve()),
            "TORCHRELAY_PORT": str(port),
            "TORCHRELAY_FRONT": "none",
            "TORCHRELAY_STATE": str(state),
            **({"JAVA_HOME": server.java_home} if server.java_home else {}),
        }
        log.info("starting version %s on port %d", home.name, port)
        argv = [str(server.python), str(layout.RUNTIME / "entrypoint.py")]
        running = Running(home.name, processes.start(argv, env, home, home / "server.log"), port, state)
        write_json(home / "run.json", {"process": asdict(running.process), "port": port, "state": str(state)})
        return running

    def _prove(self, home: Path, server: server_env.Server, port: int, samples: Sequence[Sample]) -> None:
        """Start a version on a port and hold it against samples; one that fails is stopped.

        Raises GateFailed.
        """
        try:
            self._wait_ready(self._start(home, server, port))
            contract.prove(HttpProber(f"http://{HOST}:{port}"), self.model, samples, lambda: self._log(home.name))
        except BaseException:
            self._stop(home.name)
            raise

    def _replace(self, new: Deployed, server: server_env.Server, old: Deployed | None, samples: Sequence[Sample]) -> None:
        """Let a version take over the declared port; when it fails there, the old one takes it back.

        Raises RolledBack, RollbackFailed; GateFailed when there was no old one on that port.
        """
        running = self._running(old.handle) if old else None
        displaced = old if old and running and running.port == self.port else None
        if displaced:
            self._stop(displaced.handle)
        try:
            self._prove(self.homes / new.handle, server, self.port, samples)
        except BaseException as error:
            if displaced is None:
                raise
            try:
                self._wait_ready(self._start(self.homes / displaced.handle, server, self.port))
            except GateFailed as failure:
                what = f"{new.handle} failed and {displaced.handle} did not come up again: {failure.message}"
                raise RollbackFailed(what, f"read {self.homes / displaced.handle / 'server.log'}, then deploy again") from error
            if isinstance(error, GateFailed):
                raise RolledBack(f"{new.handle} failed: {error.message}; {displaced.handle} answers again", error.fix) from error
            raise

    def _wait_ready(self, running: Running) -> None:
        begin, failure = time.monotonic(), None
        while failure is None:
            state, reason = self._status(running)
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
        raise contract.explained(failure, self._log(running.home), lines=25)

    def _commit(self, live: Deployed, previous: Deployed | None) -> None:
        """Write down what serves, and remove versions that are neither."""
        kept = previous if previous and previous.handle != live.handle else None
        contract.write_record(self.context, NAME, Record(live, kept))
        for home in self.homes.iterdir():
            if home.name not in (live.handle, kept.handle if kept else ""):
                self._stop(home.name)
                shutil.rmtree(home, ignore_errors=True)

    def _stop(self, handle: str) -> None:
        running = self._running(handle)
        if running is not None:
            processes.stop(running.process, self.drain_s)
            shutil.rmtree(running.state, ignore_errors=True)
        (self.homes / handle / "run.json").unlink(missing_ok=True)

    def _end_strays(self, live: Running | None) -> None:
        """End what a run that was killed, or a killed supervisor, left behind."""
        for home in self.homes.glob("*/run.json"):
            if live is None or home.parent.name != live.home:
                self._stop(home.parent.name)
        family = {live.process, *processes.descendants(live.process.pid)} if live else set()
        strays = processes.with_state_below(self._state_root()) - family
        if strays:
            log.info("ending %d processes that an interrupted run left behind", len(strays))
            processes.kill(strays)

    def _state_root(self) -> Path:
        """Return the folder of the states of this model directory's processes, short enough for a socket below it."""
        own = hashlib.sha256(str(self.context.model_dir.resolve()).encode()).hexdigest()[:10]
        root = self.context.cache.resolve() / "run" / own
        if len(str(root)) + 16 > LONGEST_STATE:
            root = Path("/tmp") / f"torchrelay-{os.getuid()}" / own  # noqa: S108 -- made with mode 700, refused if not ours
            root.parent.mkdir(mode=0o700, exist_ok=True)
            if root.parent.is_symlink() or root.parent.stat().st_uid != os.getuid():
                raise DeployFailed(f"{root.parent} belongs to somebody else", "set TORCHRELAY_CACHE to a short path")
        return root

    def _log(self, handle: str) -> str:
        with suppress(OSError):
            return (self.homes / handle / "server.log").read_text(errors="replace")
        return ""

    def _require_port(self) -> None:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, self.port))
            except OSError as error:
                raise PortTaken(
                    f"port {self.port} of {HOST} cannot be had: {error.strerror}",
                    "end the process that listens there, or set another in model.yaml: `targets: {local: {port: 8081}}`",
                ) from error


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
