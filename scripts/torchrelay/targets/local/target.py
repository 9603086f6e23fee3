"""The local target: TorchServe as a process of this machine, without Docker; for laptops and demos.

A new version starts on a free port and answers the samples there; only then is the old one stopped and the new one started on
the declared port. Requests fail for the seconds in between; use the docker target if that is not acceptable.

    .torchrelay/local/<digest>/    one version: model/ (unpacked), deps/, serving.json, run.json (its process), server.log
"""

import logging
import shutil
import socket
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path

from torchrelay.core.errors import DeployFailed, GateFailed, PortTaken, RollbackFailed, RolledBack
from torchrelay.core.files import write_json
from torchrelay.core.locks import turn
from torchrelay.core.workspace import Workspace
from torchrelay.image import mar
from torchrelay.model.model import predict_path
from torchrelay.model.samples import Sample
from torchrelay.targets import contract
from torchrelay.targets.contract import Context, Deployed, DeploymentRecord, DeployPlan, Endpoint, Release
from torchrelay.targets.local import environment
from torchrelay.targets.local.environment import ServerEnvironment
from torchrelay.targets.local.versions import Versions
from torchrelay.verification.prober import HttpProber, ProbeAnswer, ProbeRequest
from torchrelay.verification.replay import answers_correctly

log = logging.getLogger(__name__)
NAME = "local"
HOST = "127.0.0.1"


class LocalTarget:
    """See `contract.Target`."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.model = context.model
        self.port = context.model.targets.local.port
        self.versions = Versions(context)

    def plan(self, release: Release) -> DeployPlan:
        """See `contract.Target`."""
        live = self._live()
        if live is not None and live.digest == release.digest and self.versions.running(live.handle):
            return DeployPlan(unchanged=True, steps=(f"keep the process that serves {release.digest}",))
        steps = [f"create the server environment in {self.context.cache / 'server'}, if it is missing"]
        if live is not None:
            steps.append(f"start {release.digest[:19]} on a free port and verify it with {len(release.samples)} samples")
            steps.append(f"stop {live.digest[:19]}")
        steps.append(f"start {release.digest[:19]} on port {self.port} and send {len(release.samples)} samples")
        return DeployPlan(unchanged=False, steps=tuple(steps))

    def apply(self, release: Release) -> Endpoint:
        """See `contract.Target`."""
        with self._turn():
            return self._applied(release)

    def status(self) -> Endpoint:
        """See `contract.Target`."""
        live, previous = self._live(), contract.read_record(self.context, NAME).previous
        before = previous.digest if previous and (self.versions.folder / previous.handle / "serving.json").exists() else ""
        running = self.versions.running(live.handle) if live else None
        url = f"http://{HOST}:{running.port if running else self.port}{predict_path(self.model.name)}"
        if live is None:
            return Endpoint(NAME, url, "", "", "absent", previous=before)
        state, detail = self.versions.status(running)
        return Endpoint(NAME, url, live.digest, live.version, state, detail, before)

    def verify(self, samples: Sequence[Sample]) -> None:
        """See `contract.Target`."""
        contract.verify_samples(self._prober(), self.model, samples, lambda: self.logs(10_000))

    def invoke(self, request: ProbeRequest, timeout_s: float = 60.0) -> ProbeAnswer:
        """See `contract.Target`."""
        return self._prober().send([request], 1, timeout_s)[0]

    def logs(self, lines: int = 200) -> str:
        """See `contract.Target`."""
        live = self._live()
        return "" if live is None else "\n".join(self.versions.log_of(live.handle).splitlines()[-lines:])

    def rollback(self) -> Endpoint:
        """See `contract.Target`."""
        with self._turn():
            return self._rolled_back()

    def delete(self) -> bool:
        """See `contract.Target`."""
        with self._turn():
            existed = self.versions.folder.exists()
            self.versions.end_strays(None)
            shutil.rmtree(self.versions.folder, ignore_errors=True)
            shutil.rmtree(self.versions.state_root(), ignore_errors=True)
            contract.forget_record(self.context, NAME)
            return existed

    def _applied(self, release: Release) -> Endpoint:
        server = environment.ensure_server(self.context.cache, environment.ServerSettings.from_environment(), self.context.progress)
        record = contract.read_record(self.context, NAME)
        live = self._live()
        running = self.versions.running(live.handle) if live else None
        self.versions.end_strays(running)
        self.versions.sweep({one.handle for one in (record.current, record.previous) if one} | {handle_of(release)})
        if live and running and live.digest == release.digest and running.port == self.port:
            if self.versions.status(running)[0] == "ready" and answers_correctly(self._prober(), self.model, release.samples):
                return replace(self.status(), skipped=True)
            log.warning("the running process no longer answers its samples correctly; restarting it")
            self.versions.stop(live.handle)
            running = None
        home = self._unpacked(release, server)
        if running is not None and running.handle == home.name:  # the same version on another port
            self._require_port()
            self.versions.stop(home.name)
            running = None
        new = Deployed.now(release.digest, release.version, home.name)
        if running is None or running.port != self.port:
            self._require_port()
        elif live is not None:
            self._verify(home, server, _free_port(), release.samples, contract.LEAST_REQUESTS)
            self.versions.stop(home.name)
        self._replace(new, server, live if running else None, release.samples)
        if running is not None and running.port != self.port and live is not None:
            self.versions.stop(live.handle)
        self._commit(new, record.previous if live is None or live.handle == new.handle else live)
        return self.status()

    def _rolled_back(self) -> Endpoint:
        record = contract.read_record(self.context, NAME)
        live, previous = self._live(), record.previous
        if previous is None or not (self.versions.folder / previous.handle / "serving.json").exists():
            raise DeployFailed(f"{self.model.name}: there is no previous version", "deploy the version you want")
        server = environment.ensure_server(self.context.cache, environment.ServerSettings.from_environment(), self.context.progress)
        if live is None or self.versions.running(live.handle) is None:
            self._require_port()
        try:
            self._replace(previous, server, live, ())
        except RolledBack as failure:
            message = f"the previous version does not become ready: {failure.message}"
            raise RollbackFailed(message, failure.fix) from failure
        self._commit(previous, live)
        return self.status()

    def _turn(self) -> AbstractContextManager[None]:
        """Lock the port, so that no other model takes it between the end of the old version and the start of the new one."""
        return turn(self.context.cache, f"{NAME}-{self.port}")

    def _live(self) -> Deployed | None:
        """Return the recorded version: it serves, or should."""
        return contract.read_record(self.context, NAME).current

    def _prober(self) -> HttpProber:
        live = self._live()
        running = self.versions.running(live.handle) if live else None
        return HttpProber(f"http://{HOST}:{running.port if running else self.port}")

    def _unpacked(self, release: Release, server: ServerEnvironment) -> Path:
        """Return the folder of a version, created if it is missing; it is complete or absent."""
        home = self.versions.folder / handle_of(release)
        if (home / "serving.json").exists():
            return home
        if release.archive is None:
            raise DeployFailed("the local target needs the archive, which is missing", "run `torchrelay archive` first")
        Workspace(self.context.model_dir).ensure()
        shutil.rmtree(home, ignore_errors=True)
        try:
            mar.unpack(release.archive, home / "model")
            deps = self._dependencies(home, server)
            serving = {**release.serving, "model_dir": str((home / "model").resolve()), "deps_dir": deps}
            if others := serving.get("versions"):  # `deploy` names their archives
                serving["versions"] = [self._version(home, one["version"], Path(one["model_dir"])) for one in others]
            write_json(home / "serving.json", serving)
        except BaseException:
            shutil.rmtree(home, ignore_errors=True)
            raise
        return home

    def _version(self, home: Path, version: str, archive: Path) -> dict[str, str]:
        """Unpack another version beside this one and return its part of serving.json."""
        folder = home / "versions" / version
        mar.unpack(archive, folder)
        return {"version": version, "model_dir": str(folder.resolve())}

    def _dependencies(self, home: Path, server: ServerEnvironment) -> str | None:
        """Install the model's requirements beside it, except those that the shared environment has; that one is not changed."""
        if not self.model.requirements:
            return None
        requirements = self.context.model_dir / self.model.requirements
        site = environment.install_beside(server.python, requirements, home / "deps", self.context.progress)
        return str(site.resolve()) if site else None

    def _verify(self, home: Path, server: ServerEnvironment, port: int, samples: Sequence[Sample], least: int = 0) -> None:
        """Start a version on a port and verify it with samples, `least` requests or more; one that fails is stopped.

        Raises GateFailed.
        """
        try:
            self.versions.wait_ready(self.versions.start(home, server, port))
            prober, read_log = HttpProber(f"http://{HOST}:{port}"), partial(self.versions.log_of, home.name)
            contract.verify_samples(prober, self.model, samples, read_log, least=least)
        except BaseException:
            self.versions.stop(home.name)
            raise

    def _replace(self, new: Deployed, server: ServerEnvironment, old: Deployed | None, samples: Sequence[Sample]) -> None:
        """Start a version on the declared port instead of the old one, which is started again if the new one fails.

        Raises RolledBack, RollbackFailed; GateFailed when there was no old version on that port.
        """
        running = self.versions.running(old.handle) if old else None
        displaced = old if old and running and running.port == self.port else None
        if displaced:
            self.versions.stop(displaced.handle)
        try:
            self._verify(self.versions.folder / new.handle, server, self.port, samples)
        except BaseException as error:
            if displaced is None:
                raise
            try:
                self.versions.wait_ready(self.versions.start(self.versions.folder / displaced.handle, server, self.port))
            except GateFailed as failure:
                message = f"{new.handle} failed and {displaced.handle} did not start again: {failure.message}"
                raise RollbackFailed(
                    message, f"read {self.versions.folder / displaced.handle / 'server.log'}, then deploy again"
                ) from error
            if isinstance(error, GateFailed):
                raise RolledBack(f"{new.handle} failed: {error.message}; {displaced.handle} answers again", error.fix) from error
            raise

    def _commit(self, live: Deployed, previous: Deployed | None) -> None:
        """Record what serves, and remove all versions but these two."""
        restorable = previous if previous and previous.handle != live.handle else None
        contract.write_record(self.context, NAME, DeploymentRecord(live, restorable))
        self.versions.sweep({live.handle, *([restorable.handle] if restorable else [])})

    def _require_port(self) -> None:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, self.port))
            except OSError as error:
                raise PortTaken(
                    f"cannot listen on {HOST}:{self.port}: {error.strerror}",
                    "end the process that listens there, or set another in model.yaml: `targets: {local: {port: 8081}}`",
                ) from error


def handle_of(release: Release) -> str:
    """Return the name of a release's folder."""
    return release.digest.removeprefix("sha256:")[:12]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
