"""The local target: TorchServe as a process of this machine, without Docker; for laptops and demos.

A new version starts on a free port and answers the samples there; only then the old one is stopped and the new one is started
on the declared port. So requests fail for the seconds between: who cannot have that takes the docker target.

    .torchrelay/local/<digest>/    one version: model/ (unpacked), deps/, serving.json, run.json (its process), server.log
"""

import logging
import shutil
import socket
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

from torchrelay.core.errors import DeployFailed, GateFailed, PortTaken, RollbackFailed, RolledBack
from torchrelay.core.files import write_json
from torchrelay.core.locks import turn
from torchrelay.core.workspace import Workspace
from torchrelay.image import mar
from torchrelay.model.samples import Sample
from torchrelay.targets import contract
from torchrelay.targets.contract import Context, Deployed, Endpoint, Plan, Record, Release
from torchrelay.targets.local import environment
from torchrelay.targets.local.homes import Homes
from torchrelay.verification.prober import HttpProber, ProbeAnswer, ProbeRequest

log = logging.getLogger(__name__)
NAME = "local"
HOST = "127.0.0.1"


class LocalTarget:
    """See `contract.Target`."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.model = context.model
        self.port = context.model.targets.local.port
        self.homes = Homes(context)

    def plan(self, release: Release) -> Plan:
        """See `contract.Target`."""
        live = self._live()
        if live is not None and live.digest == release.digest and self.homes.running(live.handle):
            return Plan(unchanged=True, steps=(f"keep the process that serves {release.digest}",))
        steps = [f"make the server environment in {self.context.cache / 'server'}, if it is not there"]
        if live is not None:
            steps.append(f"start {release.digest[:19]} on a free port and prove it with {len(release.samples)} samples")
            steps.append(f"stop {live.digest[:19]}")
        steps.append(f"start {release.digest[:19]} on port {self.port} and send {len(release.samples)} samples")
        return Plan(unchanged=False, steps=tuple(steps))

    def apply(self, release: Release) -> Endpoint:
        """See `contract.Target`."""
        with self._turn():
            return self._applied(release)

    def status(self) -> Endpoint:
        """See `contract.Target`."""
        live, previous = self._live(), contract.read_record(self.context, NAME).previous
        before = previous.digest if previous and (self.homes.folder / previous.handle / "serving.json").exists() else ""
        running = self.homes.running(live.handle) if live else None
        url = f"http://{HOST}:{running.port if running else self.port}{contract.predict_path(self.model)}"
        if live is None:
            return Endpoint(NAME, url, "", "", "absent", previous=before)
        state, detail = self.homes.status(running)
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
        return "" if live is None else "\n".join(self.homes.log_of(live.handle).splitlines()[-lines:])

    def rollback(self) -> Endpoint:
        """See `contract.Target`."""
        with self._turn():
            return self._rolled_back()

    def delete(self) -> bool:
        """See `contract.Target`."""
        found = self.homes.folder.exists()
        self.homes.end_strays(None)
        shutil.rmtree(self.homes.folder, ignore_errors=True)
        shutil.rmtree(self.homes.state_root(), ignore_errors=True)
        contract.forget_record(self.context, NAME)
        return found

    def _applied(self, release: Release) -> Endpoint:
        server = environment.ensure_server(self.context.cache, environment.ServerSettings.from_environment(), self.context.progress)
        record = contract.read_record(self.context, NAME)
        live = self._live()
        running = self.homes.running(live.handle) if live else None
        self.homes.end_strays(running)
        if live and running and live.digest == release.digest and running.port == self.port:
            if self.homes.status(running)[0] == "ready" and contract.still_right(self._prober(), self.model, release.samples):
                return replace(self.status(), skipped=True)
            log.warning("the running process does not answer its samples any more: starting it anew")
            self.homes.stop(live.handle)
            running = None
        home = self._unpacked(release, server)
        if running is not None and running.home == home.name:  # the same version, on another port than is declared now
            self._require_port()
            self.homes.stop(home.name)
            running = None
        new = Deployed.now(release.digest, release.version, home.name)
        if running is None or running.port != self.port:
            self._require_port()
        elif live is not None:
            self._prove(home, server, _free_port(), release.samples)
            self.homes.stop(home.name)
        self._replace(new, server, live if running else None, release.samples)
        if running is not None and running.port != self.port and live is not None:
            self.homes.stop(live.handle)
        kept = record.previous if live is None or live.handle == new.handle else live
        self._commit(new, kept)
        return self.status()

    def _rolled_back(self) -> Endpoint:
        record = contract.read_record(self.context, NAME)
        live, previous = self._live(), record.previous
        if previous is None or not (self.homes.folder / previous.handle / "serving.json").exists():
            raise DeployFailed(f"{self.model.name}: there is no previous version", "deploy the version you want")
        server = environment.ensure_server(self.context.cache, environment.ServerSettings.from_environment(), self.context.progress)
        if live is None or self.homes.running(live.handle) is None:
            self._require_port()
        try:
            self._replace(previous, server, live, ())
        except RolledBack as failure:
            what = f"the previous version does not come up: {failure.message}"
            raise RollbackFailed(what, failure.fix) from failure
        self._commit(previous, live)
        return self.status()

    def _turn(self) -> AbstractContextManager[None]:
        """Keep other models away from the port between the end of the old version and the start of the new one."""
        return turn(self.context.cache, f"{NAME}-{self.port}")

    def _live(self) -> Deployed | None:
        """Return the version that serves, or should: what was written down, as a process is what it was started as."""
        return contract.read_record(self.context, NAME).current

    def _prober(self) -> HttpProber:
        live = self._live()
        running = self.homes.running(live.handle) if live else None
        return HttpProber(f"http://{HOST}:{running.port if running else self.port}")

    def _unpacked(self, release: Release, server: environment.Server) -> Path:
        """Return the folder of a version, made when it is not there; it appears whole or not at all."""
        home = self.homes.folder / release.digest.removeprefix("sha256:")[:12]
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
            if others := serving.get("versions"):  # `deploy` names their archives
                serving["versions"] = [self._version(home, one["version"], Path(one["model_dir"])) for one in others]
            write_json(home / "serving.json", serving)
        except BaseException:
            shutil.rmtree(home, ignore_errors=True)
            raise
        return home

    def _version(self, home: Path, version: str, archive: Path) -> dict[str, str]:
        """Unpack another version beside this one; returns its part of serving.json."""
        folder = home / "versions" / version
        mar.unpack(archive, folder)
        return {"version": version, "model_dir": str(folder.resolve())}

    def _dependencies(self, home: Path, server: environment.Server) -> str | None:
        """Install the model's requirements beside it, not into the shared environment; what that has is counted, and kept."""
        if not self.model.requirements:
            return None
        requirements = self.context.model_dir / self.model.requirements
        site = environment.install_beside(server.python, requirements, home / "deps", self.context.progress)
        return str(site.resolve()) if site else None

    def _prove(self, home: Path, server: environment.Server, port: int, samples: Sequence[Sample]) -> None:
        """Start a version on a port and hold it against samples; one that fails is stopped.

        Raises GateFailed.
        """
        try:
            self.homes.wait_ready(self.homes.start(home, server, port))
            contract.prove(HttpProber(f"http://{HOST}:{port}"), self.model, samples, lambda: self.homes.log_of(home.name))
        except BaseException:
            self.homes.stop(home.name)
            raise

    def _replace(self, new: Deployed, server: environment.Server, old: Deployed | None, samples: Sequence[Sample]) -> None:
        """Let a version take over the declared port; when it fails there, the old one takes it back.

        Raises RolledBack, RollbackFailed; GateFailed when there was no old one on that port.
        """
        running = self.homes.running(old.handle) if old else None
        displaced = old if old and running and running.port == self.port else None
        if displaced:
            self.homes.stop(displaced.handle)
        try:
            self._prove(self.homes.folder / new.handle, server, self.port, samples)
        except BaseException as error:
            if displaced is None:
                raise
            try:
                self.homes.wait_ready(self.homes.start(self.homes.folder / displaced.handle, server, self.port))
            except GateFailed as failure:
                what = f"{new.handle} failed and {displaced.handle} did not come up again: {failure.message}"
                raise RollbackFailed(
                    what, f"read {self.homes.folder / displaced.handle / 'server.log'}, then deploy again"
                ) from error
            if isinstance(error, GateFailed):
                raise RolledBack(f"{new.handle} failed: {error.message}; {displaced.handle} answers again", error.fix) from error
            raise

    def _commit(self, live: Deployed, previous: Deployed | None) -> None:
        """Write down what serves, and remove versions that are neither."""
        kept = previous if previous and previous.handle != live.handle else None
        contract.write_record(self.context, NAME, Record(live, kept))
        for home in self.homes.folder.iterdir():
            if home.name not in (live.handle, kept.handle if kept else ""):
                self.homes.stop(home.name)
                shutil.rmtree(home, ignore_errors=True)

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
