"""The kubernetes target: a proved version rolls out without losing a request, and goes back by itself when it fails.

A candidate pod, which no Service selects, answers the samples first; then the Deployment rolls with `maxUnavailable: 0`; then the
samples go through the Service, from a pod to its cluster address. Whatever fails after the first change, the version that was
proved last is applied again. What is live is annotated on the Deployment and read from there each time, so a run that was killed
half-way leaves nothing that the next one would mistake.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from torchrelay.core.errors import DeployFailed, GateFailed, RollbackFailed, RolledBack, TorchrelayError
from torchrelay.model.samples import Sample
from torchrelay.targets import contract
from torchrelay.targets.contract import Context, Deployed, Endpoint, Plan, Record, Release, State
from torchrelay.targets.kubernetes import state as kube_state
from torchrelay.targets.kubernetes.api import Api, connect
from torchrelay.targets.kubernetes.exec import PodProber
from torchrelay.targets.kubernetes.lock import Turn, turn
from torchrelay.targets.kubernetes.manifests import (
    CONTAINER,
    PLACE_S,
    PROPAGATION_S,
    Document,
    of_kind,
    render,
    selector,
    settings_of,
    startup_s,
)
from torchrelay.targets.kubernetes.objects import OURS, Wanted, apply_kinds, apply_version, is_forced, remove_first, remove_ours
from torchrelay.targets.kubernetes.pod_trouble import is_ready, state_of
from torchrelay.targets.kubernetes.rollout import (
    is_complete,
    running_candidate,
    sweep_candidates,
    wait_gone,
    wait_observed,
    wait_removed,
    wait_rolled,
)
from torchrelay.targets.kubernetes.service import address_of, answered_right, prove_service, through_service, wait_service
from torchrelay.targets.kubernetes.state import Live, Version
from torchrelay.verification.prober import ProbeAnswer, ProbeRequest

log = logging.getLogger(__name__)
NAME = "kubernetes"


class KubernetesTarget:
    """See `contract.Target`. `place_s`: how long a pod may take to get a node and its image."""

    def __init__(self, context: Context, place_s: float = PLACE_S) -> None:
        self.context = context
        self.model = context.model
        self.name = context.model.name
        self.settings = settings_of(context.model)
        self.place_s = place_s

    @property
    def url(self) -> str:
        """Where pods of the cluster find it."""
        return f"http://{self.name}.{self.settings.namespace}.svc{contract.predict_path(self.model)}"

    def plan(self, release: Release) -> Plan:
        """See `contract.Target`."""
        api = connect(self.settings)
        live = self._live(api)
        wanted = self._wanted(release, live)
        if live is not None and self._is_unchanged(api, live, wanted):
            return Plan(unchanged=True, steps=(f"keep {self.name}, which serves {release.digest}",))
        apply_kinds(api, wanted, *OURS, dry_run=True)
        where = f"in namespace {self.settings.namespace} of {api.server}"
        steps = [
            f"start a pod of {release.reference} {where}, without traffic, and prove it with {len(release.samples)} samples",
            *(f"apply {document['kind']} {document['metadata']['name']}" for document in wanted.documents),
            "wait until it has rolled out, and send the samples through the Service",
        ]
        if live is not None and live.good is not None:
            steps.append(f"go back to {live.good.digest}, should that fail")
        return Plan(unchanged=False, steps=tuple(steps))

    def apply(self, release: Release) -> Endpoint:
        """See `contract.Target`."""
        with self._turn() as (api, held):
            live = self._live(api)
            wanted = self._wanted(release, live)
            sweep_candidates(api, self.name)
            if live is not None:
                contract.require_newer(release.source, live.version.source, f"{self.settings.namespace}/{self.name}")
                if self._is_unchanged(api, live, wanted) and self._still_serves(api, release):
                    return self._keep(held, live, wanted)
            apply_kinds(api, wanted, *OURS, dry_run=True)
            right = self._prove_candidate(held, live, wanted, release.samples)
            return self._put_live(held, live, wanted, release.samples, right)

    def status(self) -> Endpoint:
        """See `contract.Target`."""
        api = connect(self.settings)
        return self._endpoint(api, self._live(api))

    def verify(self, samples: Sequence[Sample]) -> None:
        """See `contract.Target`."""
        api = connect(self.settings)
        prove_service(api, self.model, samples)

    def invoke(self, request: ProbeRequest, timeout_s: float = 60.0) -> ProbeAnswer:
        """See `contract.Target`."""
        return through_service(connect(self.settings), self.name).send([request], 1, timeout_s)[0]

    def logs(self, lines: int = 200) -> str:
        """See `contract.Target`."""
        api = connect(self.settings)
        pods = [str(pod["metadata"]["name"]) for pod in api.list("Pod", selector(self.name))]
        if len(pods) == 1:
            return api.log(pods[0], CONTAINER, lines)
        return "\n".join(f"==> {pod} <==\n{api.log(pod, CONTAINER, lines)}" for pod in sorted(pods))

    def rollback(self) -> Endpoint:
        """See `contract.Target`."""
        with self._turn() as (api, held):
            live = self._live(api)
            if live is None or live.previous is None:
                raise DeployFailed(f"{self.name}: there is no previous version", "deploy the version you want")
            present, back = live.version, live.previous
            kept = present if live.proved else None
            log.info("going back to %s", back.digest)
            try:
                self._roll(held, live.document, back, kept, proved=kept is None)
            except TorchrelayError as failure:
                held.require()
                apply_version(api, live.document, present, proved=live.proved, previous=back)
                raise RollbackFailed(
                    f"{back.version} does not come up: {failure.message}; what ran before still runs", failure.fix
                ) from failure
            return self._settle(held, live.document, back, kept)

    def delete(self) -> bool:
        """See `contract.Target`."""
        with self._turn() as (api, held):
            found = sweep_candidates(api, self.name)
            held.require()
            found = remove_ours(api, self.name) or found
            wait_removed(api, self.model, self.name)
        contract.forget_record(self.context, NAME)
        return found

    @contextmanager
    def _turn(self) -> Iterator[tuple[Api, Turn]]:
        api = connect(self.settings)
        with turn(api, self.name, 2 * (self.place_s + startup_s(self.model))) as held:
            yield api, held

    def _live(self, api: Api) -> Live | None:
        return kube_state.read(api.get("Deployment", self.name))

    def _wanted(self, release: Release, live: Live | None) -> Wanted:
        documents = render(self.model, release)
        if live is not None and kube_state.is_scaled_by_cluster(live.document):
            deployment = of_kind(documents, "Deployment")
            deployment["spec"] = kube_state.without_replicas(deployment["spec"])
        return Wanted(documents, kube_state.version_of(release, documents))

    def _is_unchanged(self, api: Api, live: Live, wanted: Wanted) -> bool:
        """Tell whether applying would change nothing that runs: the API says so, as somebody may have changed it by hand."""
        if not (live.proved and live.version.serves(wanted.version) and is_complete(live.document)):
            return False
        document = kube_state.deployment(wanted.deployment, wanted.version, proved=True, previous=live.previous)
        applied = api.apply(document, dry_run=True, force=True)
        return bool(applied["spec"] == live.document["spec"])

    def _still_serves(self, api: Api, release: Release) -> bool:
        try:
            return contract.still_right(through_service(api, self.name), self.model, release.samples)
        except (GateFailed, DeployFailed) as failure:
            log.warning("%s does not answer any more: %s", self.name, failure.message)
            return False

    def _keep(self, held: Turn, live: Live, wanted: Wanted) -> Endpoint:
        """Leave what runs as it is; where it comes from may be a newer commit."""
        if wanted.version.source.commit and live.version.source != wanted.version.source:
            version = replace(live.version, source=wanted.version.source)
            held.require()
            apply_version(held.api, wanted.deployment, version, proved=True, previous=live.previous)
        self._write_down(live.version, live.previous)
        return replace(self._endpoint(held.api, live), skipped=True)

    def _prove_candidate(self, held: Turn, live: Live | None, wanted: Wanted, samples: Sequence[Sample]) -> list[Sample]:
        """Prove the version in a pod without traffic; returns the samples that what is live answers right.

        Raises GateFailed, DeployFailed; all is then as it was.
        """
        api = held.api
        apply_kinds(api, wanted, "ServiceAccount")  # no pod is taken before its account is there
        try:
            with running_candidate(api, self.model, wanted.deployment, self.place_s) as pod:
                contract.prove(PodProber(api, pod), self.model, samples, lambda: api.log_or_why(pod, CONTAINER))
                held.require()
                if live is None or not live.proved:  # what was cut short is not what is gone back to
                    return []
                return answered_right(PodProber(api, pod, address_of(api, self.name)), self.model, samples)
        except BaseException:
            if live is None and not held.is_lost:
                remove_first(api, self.name, None)
            raise

    def _put_live(
        self, held: Turn, live: Live | None, wanted: Wanted, samples: Sequence[Sample], right: Sequence[Sample]
    ) -> Endpoint:
        """Roll a proved version out and send the samples through the Service; whatever goes wrong, what ran before is restored.

        Raises RolledBack, RollbackFailed; GateFailed, DeployFailed when nothing ran before, and nothing does now.
        """
        api, back = held.api, live.good if live else None
        earlier = live.previous if live and live.proved else None
        again = back is not None and back.serves(wanted.version)
        kept = earlier if again else back
        held.require()
        try:
            apply_kinds(api, wanted, "Service", "PodDisruptionBudget")
            self._roll(held, wanted.deployment, wanted.version, kept, proved=again, force=is_forced())
            prove_service(api, self.model, samples)
            return self._settle(held, wanted.deployment, wanted.version, kept)
        except TorchrelayError as error:
            held.require()  # what another relay put live meanwhile stays
            if back is None or live is None:
                if remove_first(api, self.name, wanted.version):  # nothing answers, rather than something wrong
                    wait_removed(api, self.model, self.name)
                raise
            self._restore(held, live, back, right, error)
            what = f"{wanted.version.version} failed behind the Service: {error.message}; {back.version} answers again"
            raise RolledBack(what, error.fix) from error
        except BaseException:  # Ctrl-C: there may be no time to look whether it comes up
            if held.is_lost:
                raise
            if back is not None and live is not None:
                apply_version(api, live.document, back, proved=True, previous=earlier)
            else:
                remove_first(api, self.name, wanted.version)
            raise

    def _roll(
        self, held: Turn, rendered: Document, version: Version, previous: Version | None, *, proved: bool, force: bool = True
    ) -> None:
        """Apply a version and wait until all pods are of it and nothing is sent to others any more.

        `proved`: it was so before, and is what to go back to should this run be killed.
        """
        held.require()
        apply_version(held.api, rendered, version, proved=proved, previous=previous, force=force)
        log.info("rolling out %s", version.version)
        wait_rolled(held.api, self.model, self.name, self.place_s)
        wait_gone(held.api, self.name, PROPAGATION_S)
        wait_service(held.api, self.name)

    def _settle(self, held: Turn, rendered: Document, version: Version, previous: Version | None) -> Endpoint:
        """Write down that a version was proved."""
        held.require()
        apply_version(held.api, rendered, version, proved=True, previous=previous)
        wait_observed(held.api, self.name)  # a changed annotation is a new generation too
        self._write_down(version, previous)
        return self._endpoint(held.api, self._live(held.api))

    def _restore(self, held: Turn, live: Live, back: Version, right: Sequence[Sample], error: TorchrelayError) -> None:
        """Roll back to what was proved last, and prove it again with the samples that it answered before."""
        log.warning("%s; going back to %s", error.message, back.version)
        earlier = live.previous if live.proved else None
        try:
            self._roll(held, live.document, back, earlier, proved=True)
            if right:
                prove_service(held.api, self.model, right)
            self._settle(held, live.document, back, earlier)
        except TorchrelayError as failure:
            what = f"{error.message}; and {back.version} could not be restored: {failure.message}"
            look = f"`kubectl -n {self.settings.namespace} describe deployment {self.name}`, then deploy again"
            raise RollbackFailed(what, look) from error

    def _write_down(self, version: Version, previous: Version | None) -> None:
        def of(one: Version | None) -> Deployed | None:
            return Deployed(one.digest, one.version, one.image, one.since) if one else None

        contract.write_record(self.context, NAME, Record(of(version), of(previous)))

    def _endpoint(self, api: Api, live: Live | None) -> Endpoint:
        if live is None:
            return Endpoint(NAME, self.url, "", "", "absent")
        state, detail = self._state(api, live)
        before = live.previous.digest if live.previous else ""
        return Endpoint(NAME, self.url, live.version.digest, live.version.version, state, detail, before)

    def _state(self, api: Api, live: Live) -> tuple[State, str]:
        """Say how what is live is doing, by its pods."""
        pods = api.list("Pod", selector(self.name))
        if not any(is_ready(pod) for pod in pods):
            return "not_ready", state_of(pods)
        if not is_complete(live.document):
            return "not_ready", f"a rollout is under way: {state_of(pods)}"
        image = live.document["spec"]["template"]["spec"]["containers"][0]["image"]
        if image != live.version.image:
            return "ready", f"changed by hand: {image} runs"
        return "ready", "" if live.proved else "a deploy was cut short: deploy again"
