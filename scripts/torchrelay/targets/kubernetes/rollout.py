"""One change of a model in a cluster: a candidate is verified, then the Deployment rolls, and goes back if anything fails."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

from torchrelay.core.errors import DeployFailed, RollbackFailed, RolledBack, TorchrelayError
from torchrelay.model.model import Model
from torchrelay.model.samples import Sample
from torchrelay.targets import contract
from torchrelay.targets.kubernetes import state
from torchrelay.targets.kubernetes.exec import pod_prober
from torchrelay.targets.kubernetes.lock import HeldLease
from torchrelay.targets.kubernetes.manifests import PROPAGATION_S, Document
from torchrelay.targets.kubernetes.objects import (
    MANAGED_KINDS,
    RenderedRelease,
    apply_kinds,
    apply_version,
    is_forced,
    remove_first,
    remove_managed,
)
from torchrelay.targets.kubernetes.service import address_of, verify_service, wait_service
from torchrelay.targets.kubernetes.state import DeployedVersion, Live
from torchrelay.targets.kubernetes.waiting import PodWaits, sweep_candidates
from torchrelay.verification.replay import correct_samples

log = logging.getLogger(__name__)


class Rollout:
    """Changes a model while its lock is held. `live` is the Deployment's state when the change began.

    `record` is called with the version that serves and the one that a rollback restores, once they are verified.
    """

    def __init__(
        self,
        held: HeldLease,
        model: Model,
        live: Live | None,
        place_s: float,
        record: Callable[[DeployedVersion, DeployedVersion | None], None],
    ) -> None:
        self.held = held
        self.api = held.api
        self.model = model
        self.name = model.name
        self.live = live
        self.waits = PodWaits(held.api, model, place_s)
        self.record = record
        self.answered: list[Sample] = []
        """The samples that the live version answers correctly: those that it must answer again after going back."""

    def deploy(self, release: RenderedRelease, samples: Sequence[Sample]) -> None:
        """Verify a release in a candidate pod, roll it out and verify it through the Service.

        Raises GateFailed, DeployFailed when what ran before still runs; RolledBack, RollbackFailed, Busy.
        """
        apply_kinds(self.api, release, *MANAGED_KINDS, dry_run=True)
        self._verify_candidate(release, samples)
        self._put_live(release, samples)

    def keep(self, live: Live, release: RenderedRelease) -> None:
        """Leave the live version running; note a newer commit that it comes from."""
        if release.version.source.commit and live.version.source != release.version.source:
            version = replace(live.version, source=release.version.source)
            self.held.require()
            apply_version(self.api, release.deployment, version, verified=True, previous=live.previous)
        self.record(live.version, live.previous)

    def go_back(self) -> None:
        """Roll back to the previous version; the current one becomes the previous.

        Raises DeployFailed when there is no previous version, RollbackFailed when it does not become ready.
        """
        live = self.live
        if live is None or live.previous is None:
            raise DeployFailed(f"{self.name}: there is no previous version", "deploy the version you want")
        current, target = live.version, live.previous
        restorable = current if live.verified else None
        log.info("going back to %s", target.digest)
        try:
            self._roll(live.document, target, restorable, verified=restorable is None)
        except TorchrelayError as failure:
            self.held.require()
            apply_version(self.api, live.document, current, verified=live.verified, previous=target)
            message = f"{target.version} does not become ready: {failure.message}; what ran before still runs"
            raise RollbackFailed(message, failure.fix) from failure
        self._settle(live.document, target, restorable)

    def delete(self) -> bool:
        """Remove everything that was applied; return whether there was anything.

        Raises DeployFailed when a pod does not end.
        """
        swept = sweep_candidates(self.api, self.name)
        self.held.require()
        removed = remove_managed(self.api, self.name)
        self.waits.removed()
        return swept or removed

    def _verify_candidate(self, release: RenderedRelease, samples: Sequence[Sample]) -> None:
        """Verify a version in a pod without traffic; find the samples that the live version answers correctly.

        Raises GateFailed, DeployFailed; the cluster is then as it was.
        """
        # The API refuses a pod whose account is missing, and the candidate runs under the policies that the model will run under.
        apply_kinds(self.api, release, "ServiceAccount", "NetworkPolicy")
        try:
            with self.waits.running_candidate(release.deployment) as pod:
                inside = pod_prober(self.api, pod)
                contract.verify_samples(inside, self.model, samples, lambda: self.api.log_or_reason(pod))
                self.held.require()
                if self.live is not None and self.live.verified:  # an interrupted rollout is not restored
                    through = pod_prober(self.api, pod, address_of(self.api, self.name))
                    self.answered = correct_samples(through, self.model, samples)
        except BaseException:
            if self.live is None and not self.held.is_lost:
                remove_first(self.api, self.name, None)
            raise

    def _put_live(self, release: RenderedRelease, samples: Sequence[Sample]) -> None:
        """Roll a verified version out and send the samples through the Service; on any failure, restore what ran before.

        Raises RolledBack, RollbackFailed; GateFailed, DeployFailed when nothing ran before, and nothing does now.
        """
        live, target = self.live, self.live.last_verified if self.live else None
        earlier = live.previous if live and live.verified else None
        same = target is not None and target.serves(release.version)
        restorable = earlier if same else target
        self.held.require()
        try:
            apply_kinds(self.api, release, "Service", "PodDisruptionBudget")
            self._roll(release.deployment, release.version, restorable, verified=same, force=is_forced())
            verify_service(self.api, self.model, samples)
            self._settle(release.deployment, release.version, restorable)
        except TorchrelayError as error:
            self.held.require()  # otherwise another relay's version is live by now, and stays
            if target is None or live is None:
                if remove_first(self.api, self.name, release.version):  # better no answer than a wrong one
                    self.waits.removed()
                raise
            self._restore(live, target, error)
            message = f"{release.version.version} failed behind the Service: {error.message}; {target.version} answers again"
            raise RolledBack(message, error.fix) from error
        except BaseException:  # Ctrl-C: there may be no time to wait until the restored version is ready
            if self.held.is_lost:
                raise
            if target is not None and live is not None:
                apply_version(self.api, live.document, target, verified=True, previous=earlier)
            else:
                remove_first(self.api, self.name, release.version)
            raise

    def _roll(
        self,
        rendered: Document,
        version: DeployedVersion,
        previous: DeployedVersion | None,
        *,
        verified: bool,
        force: bool = True,
    ) -> None:
        """Apply a version and wait until all pods run it and nothing is sent to others any more.

        `verified`: it was verified before, so it is restored should this run be killed.
        """
        self.held.require()
        apply_version(self.api, rendered, version, verified=verified, previous=previous, force=force)
        log.info("rolling out %s", version.version)
        self.waits.rolled()
        self.waits.replaced_gone(PROPAGATION_S)
        wait_service(self.api, self.name)

    def _settle(self, rendered: Document, version: DeployedVersion, previous: DeployedVersion | None) -> None:
        """Mark a version as verified, and record it."""
        self.held.require()
        apply_version(self.api, rendered, version, verified=True, previous=previous)
        self.waits.observed()  # a changed annotation is a new generation too
        self.record(version, previous)
        self.live = state.read(self.api.get("Deployment", self.name))

    def _restore(self, live: Live, target: DeployedVersion, error: TorchrelayError) -> None:
        """Roll back to the last verified version, and verify it with the samples that it answered before."""
        log.warning("%s; going back to %s", error.message, target.version)
        earlier = live.previous if live.verified else None
        try:
            self._roll(live.document, target, earlier, verified=True)
            if self.answered:
                verify_service(self.api, self.model, self.answered)
            self._settle(live.document, target, earlier)
        except TorchrelayError as failure:
            message = f"{error.message}; and {target.version} could not be restored: {failure.message}"
            look = f"`kubectl -n {self.api.namespace} describe deployment {self.name}`, then deploy again"
            raise RollbackFailed(message, look) from error
