"""The docker target: replaces a running version without losing a request.

Each version runs in its own container on a private network; one small front container, of the same image, publishes the port.
A new version starts beside the old one and answers the samples from inside, and then behind a second front on a port that nobody
knows, at least 50 requests; then the front switches to it and the samples are sent through the published port; then the old version
drains and is kept, stopped, for a rollback.

    client -> 127.0.0.1:PORT -> torchrelay-NAME-front -> torchrelay-NAME-<digest>-<limits>     (network torchrelay-NAME)

What runs is read from the daemon each time, so the next run continues correctly after one that was killed.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

from pydantic import Field

from torchrelay.core.errors import DeployFailed, GateFailed, RollbackFailed, RolledBack
from torchrelay.core.locks import turn
from torchrelay.core.settings import EnvironmentSettings
from torchrelay.docker import daemon
from torchrelay.model.model import predict_path
from torchrelay.model.samples import Sample
from torchrelay.targets import contract
from torchrelay.targets.contract import Context, Deployed, DeploymentRecord, DeployPlan, Endpoint, Release
from torchrelay.targets.docker.containers import Containers, discard
from torchrelay.targets.docker.front import Front, VersionContainer
from torchrelay.targets.docker.images import image_id
from torchrelay.verification.prober import HttpProber, ProbeAnswer, Prober, ProbeRequest, container_prober
from torchrelay.verification.ready import START_MARGIN_S, wait_container_ready, wait_ping
from torchrelay.verification.replay import answers_correctly

if TYPE_CHECKING:
    from docker.models.containers import Container

log = logging.getLogger(__name__)
NAME = "docker"
TURN_S = 900.0
"""Seconds to wait for another deploy of the same model, for two pushes in quick succession; their order is then compared."""


class DockerSettings(EnvironmentSettings):
    """The environment variables of the docker target."""

    read_by = "the docker target"

    docker_bind: IPv4Address = Field(IPv4Address("127.0.0.1"), description="IPv4 address that the port is published on.")


class DockerTarget:
    """See `contract.Target`."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.bind = str(DockerSettings.read().docker_bind)
        self.model = context.model
        self.port = context.model.targets.docker.port

    @property
    def base_url(self) -> str:
        """The front's address, as seen from the daemon's machine."""
        return f"http://{self.bind}:{self.port}"

    def plan(self, release: Release) -> DeployPlan:
        """See `contract.Target`."""
        with self._containers() as containers:
            live = self._live(containers)
        if live is not None and live.stands_for(release, containers.settings) and live.container.status == "running":
            return DeployPlan(unchanged=True, steps=(f"keep {live.name}, which serves {release.digest}",))
        steps = [
            f"start {containers.version_name(release.digest)} and verify it with {len(release.samples)} samples",
            f"switch {containers.front_name}, on {self.base_url}, to it",
            "send the samples through that port",
        ]
        if live is not None:
            steps.append(f"drain and stop {live.name}, and keep it for a rollback")
        return DeployPlan(unchanged=False, steps=tuple(steps))

    def apply(self, release: Release) -> Endpoint:
        """See `contract.Target`."""
        with self._turn(TURN_S), self._containers() as containers:
            live, record = self._live(containers), contract.read_record(self.context, NAME)
            if live is not None:
                contract.require_newer(release.source, live.source, live.name)
            image = image_id(containers.client, self.model, release, self.context.progress)
            previous = self._previous(containers, live, record)
            containers.sweep({one.name for one in (live, previous) if one})
            if live is not None and live.stands_for(release, containers.settings) and self._still_serves(containers, live, release):
                self._retire(containers, live, None, previous)  # a run killed while it drained has left the old version running
                return replace(self._endpoint(containers, live, previous), skipped=True)
            if containers.front_on(self.bind, self.port) is None:
                containers.require_port(self.bind, self.port)
            candidate = self._candidate(containers, release, image)
            old = self._last_verified(containers, live, record)
            self._put_live(containers, candidate, old, release.samples)
            restorable = old if old is not None and old.serves != candidate.serves else previous
            self._retire(containers, candidate, live, restorable)
            return self._endpoint(containers, candidate, restorable)

    def status(self) -> Endpoint:
        """See `contract.Target`."""
        with self._containers() as containers:
            live = self._live(containers)
            return self._endpoint(containers, live, self._previous(containers, live, contract.read_record(self.context, NAME)))

    def verify(self, samples: Sequence[Sample]) -> None:
        """See `contract.Target`."""
        with self._containers() as containers:
            contract.verify_samples(self._outside(containers), self.model, samples)

    def invoke(self, request: ProbeRequest, timeout_s: float = 60.0) -> ProbeAnswer:
        """See `contract.Target`."""
        with self._containers() as containers:
            return self._outside(containers).send([request], 1, timeout_s)[0]

    def logs(self, lines: int = 200) -> str:
        """See `contract.Target`."""
        with self._containers() as containers:
            live = self._live(containers)
            return "" if live is None else containers.log(live.container, lines)

    def rollback(self) -> Endpoint:
        """See `contract.Target`."""
        with self._turn(), self._containers() as containers:
            live = self._live(containers)
            previous = self._previous(containers, live, contract.read_record(self.context, NAME))
            if previous is None:
                raise DeployFailed(f"{self.model.name}: there is no previous version", "deploy the version you want")
            log.info("starting %s again", previous.name)
            previous.container.start()
            try:
                self._wait_ready(containers, previous.container)
                self._front_to(containers, previous)
            except (GateFailed, DeployFailed) as failure:
                previous.container.stop(timeout=1)
                raise RollbackFailed(
                    f"{previous.name} does not become ready: {failure.message}; what ran before still runs", failure.fix
                ) from failure
            self._retire(containers, previous, live, live)
            return self._endpoint(containers, previous, live)

    def delete(self) -> bool:
        """See `contract.Target`."""
        with self._turn(), self._containers() as containers:
            removed = containers.remove_all(self.model.timeouts.drain_s)
        contract.forget_record(self.context, NAME)
        return removed

    def _turn(self, patience_s: float = 0.0) -> AbstractContextManager[None]:
        """Lock the model's name: containers and network are named after it, for every copy of the model directory."""
        return turn(self.context.cache, f"{NAME}-{self.model.name}", patience_s)

    @contextmanager
    def _containers(self) -> Iterator[Containers]:
        with daemon.daemon() as client, Containers.translated():
            yield Containers(client, self.model)

    def _live(self, containers: Containers) -> VersionContainer | None:
        """Return the version that the front sends to; without a front, the recorded one or one marked as live."""
        versions = containers.versions()
        upstream = containers.upstream()
        for version in versions:
            if upstream == version.alias:
                return version
        marked = [one for one in versions if one.marked_live]
        likely = [one for one in marked if one.container.status == "running"] or marked
        recorded = contract.read_record(self.context, NAME).current
        return next((one for one in likely if recorded and one.name == recorded.handle), likely[0] if likely else None)

    def _previous(self, containers: Containers, live: VersionContainer | None, record: DeploymentRecord) -> VersionContainer | None:
        """Return the version that a rollback restores; a run killed after the switch has not recorded it yet."""
        for recorded in (record.current, record.previous):
            for version in containers.versions():
                if recorded and version.name == recorded.handle and (live is None or version.name != live.name):
                    return version
        return None

    def _last_verified(
        self, containers: Containers, live: VersionContainer | None, record: DeploymentRecord
    ) -> VersionContainer | None:
        """Return the version to restore on failure: not one that a run switched to but was killed before verifying.

        In that case the recorded version still runs. If it is stopped, another copy of the model directory verified the live one.
        """
        if live is None or record.current is None or live.name == record.current.handle:
            return live
        running = [one for one in containers.versions() if one.container.status == "running"]
        return next((one for one in running if one.name == record.current.handle), live)

    def _still_serves(self, containers: Containers, live: VersionContainer, release: Release) -> bool:
        """Return whether the version answers its samples through the declared port; a stopped front is started."""
        if live.container.status != "running":
            return False
        front = containers.front_on(self.bind, self.port)
        if front is None:
            return False
        try:
            front.ensure_running()
            self._wait_front(containers)
            return answers_correctly(self._outside(containers), self.model, release.samples)
        except GateFailed as failure:
            log.warning("%s no longer answers: %s", live.name, failure.message)
            return False

    def _candidate(self, containers: Containers, release: Release, image: str) -> VersionContainer:
        """Start a version that gets no traffic and verify it; one that fails is removed."""
        candidate = containers.create_version(release, image)
        try:
            log.info("starting %s", candidate.name)
            candidate.container.start()
            self._wait_ready(containers, candidate.container)
            inside = container_prober(candidate.container)
            contract.verify_samples(inside, self.model, release.samples, lambda: containers.log(candidate.container))
            self._verify_behind_a_front(containers, candidate, release.samples)
        except BaseException:
            discard(candidate.container)
            raise
        return candidate

    def _verify_behind_a_front(self, containers: Containers, candidate: VersionContainer, samples: Sequence[Sample]) -> None:
        """Send the samples to a candidate as users' requests will come, often enough that a warm-up does not hide wrong answers.

        Raises GateFailed, DeployFailed.
        """
        with containers.trial_front(candidate) as front:
            url = f"http://{front.bind}:{front.port}"
            prober: Prober = container_prober(front.container) if containers.remote else HttpProber(url)
            wait_ping(lambda: prober, url)
            read_log = partial(containers.log, candidate.container)
            contract.verify_samples(prober, self.model, samples, read_log, least=contract.LEAST_REQUESTS)

    def _put_live(
        self, containers: Containers, new: VersionContainer, old: VersionContainer | None, samples: Sequence[Sample]
    ) -> None:
        """Switch the front to a verified version and send the samples through it; on any failure, restore what ran.

        Raises RolledBack when requests had reached the new version, RollbackFailed when the old one could not be restored.
        """
        before = containers.front_on(self.bind, self.port)
        try:
            if before is not None and before.runtime != new.runtime:
                log.info(
                    "replacing %s because the runtime has changed: connections are interrupted for a moment", containers.front_name
                )
                containers.mark_live(new)
                containers.create_front(new, self.bind, self.port, instead_of=before)
            self._front_to(containers, new)
            contract.verify_samples(self._outside(containers), self.model, samples, lambda: containers.log(new.container))
        except BaseException as error:
            switched = before is not None and (old is None or containers.upstream() != old.alias)
            if before is None:
                containers.remove_front(self.bind, self.port)
            elif switched and old is not None:
                self._restore(containers, old, new, error)
                containers.drain_and_stop(new, self.model.timeouts.drain_s)
            discard(new.container)
            if switched and old is not None and isinstance(error, GateFailed):
                message = f"{new.name} failed behind the port: {error.message}; {old.name} answers again"
                raise RolledBack(message, error.fix) from error
            raise

    def _restore(self, containers: Containers, old: VersionContainer, new: VersionContainer, error: BaseException) -> None:
        try:
            self._front_to(containers, old)
        except (DeployFailed, GateFailed) as failure:
            message = f"{new.name} failed and {old.name} could not be restored: {failure.message}"
            raise RollbackFailed(message, f"read `docker logs {containers.front_name}`, then deploy again") from error

    def _front_to(self, containers: Containers, version: VersionContainer) -> None:
        """Send new requests to a version: switch the running front, or create a missing one first."""
        containers.mark_live(version)
        front = containers.front_on(self.bind, self.port)
        if front is None:
            front = containers.create_front(version, self.bind, self.port)
        else:
            front.ensure_running()
        front.switch(version)
        self._wait_front(containers)

    def _wait_front(self, containers: Containers) -> None:
        """Wait until /ping is answered through the published port. Raises GateFailed."""
        wait_ping(lambda: self._outside(containers), self.base_url)

    def _wait_ready(self, containers: Containers, container: "Container") -> None:
        try:
            seconds = wait_container_ready(container, self.model.timeouts.startup_s + START_MARGIN_S)
        except GateFailed as failure:
            raise contract.explained(failure, containers.log(container), lines=25) from failure
        log.info("%s is ready after %.1f s", container.name, seconds)

    def _outside(self, containers: Containers) -> Prober:
        """Return a prober of the published port; from inside the front when that port is on another machine."""
        front = containers.front()
        if containers.remote and front is not None:
            return container_prober(front.container)
        host = "127.0.0.1" if self.bind == "0.0.0.0" else self.bind  # noqa: S104 -- compared, not bound
        return HttpProber(f"http://{host}:{self.port}")

    def _retire(
        self, containers: Containers, live: VersionContainer, old: VersionContainer | None, restorable: VersionContainer | None
    ) -> None:
        """Record what serves, then drain and stop the old version; of the stopped ones only `restorable` stays."""
        contract.write_record(self.context, NAME, self._record(live, restorable))
        containers.remove_fronts_but(self.bind, self.port)
        for one in {one.name: one for one in (old, restorable) if one}.values():
            if one.name != live.name and (one is old or one.container.status == "running"):
                log.info("draining %s", one.name)
                containers.drain_and_stop(one, self.model.timeouts.drain_s)
        containers.sweep({one.name for one in (live, restorable) if one})

    def _record(self, live: VersionContainer, previous: VersionContainer | None) -> DeploymentRecord:
        recorded = contract.read_record(self.context, NAME)

        def entry(version: VersionContainer | None) -> Deployed | None:
            if version is None:
                return None
            for known in (recorded.current, recorded.previous):
                if known is not None and known.handle == version.name:
                    return known
            return Deployed.now(version.digest, version.version, version.name)

        return DeploymentRecord(entry(live), entry(previous))

    def _endpoint(self, containers: Containers, live: VersionContainer | None, previous: VersionContainer | None) -> Endpoint:
        url = self.base_url + predict_path(self.model.name)
        before = previous.digest if previous else ""
        if live is None:
            return Endpoint(NAME, url, "", "", "absent", previous=before)
        front: Front | None = containers.front_on(self.bind, self.port)
        state, detail = live.state()
        if state == "ready" and (front is None or front.container.status != "running"):
            state, detail = "not_ready", "the front is not running: deploy again"
        return Endpoint(NAME, url, live.digest, live.version, state, detail, before)
