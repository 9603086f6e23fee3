"""The kubernetes target: rolls a verified version out without losing a request, and goes back by itself when it fails.

A candidate pod, which no Service selects, answers the samples first; then the Deployment rolls with `maxUnavailable: 0`; then the
samples go through the Service, from a pod to its cluster address. If anything fails after the first change, the last verified
version is applied again. The state is annotated on the Deployment and read from there each time, so the next run continues
correctly after one that was killed.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from torchrelay.core.errors import DeployFailed, GateFailed
from torchrelay.model.model import Model, predict_path
from torchrelay.model.samples import Sample
from torchrelay.model.targets import Kubernetes
from torchrelay.targets import contract
from torchrelay.targets.contract import Context, Deployed, DeploymentRecord, DeployPlan, Endpoint, Release, State
from torchrelay.targets.kubernetes import state
from torchrelay.targets.kubernetes.api import Api, connect
from torchrelay.targets.kubernetes.lock import hold_lease
from torchrelay.targets.kubernetes.manifests import PLACE_S, Document, of_kind, render, selector, settings_of, startup_s
from torchrelay.targets.kubernetes.objects import MANAGED_KINDS, RenderedRelease, apply_kinds, is_unchanged
from torchrelay.targets.kubernetes.pod_trouble import is_ready, state_of
from torchrelay.targets.kubernetes.rollout import Rollout
from torchrelay.targets.kubernetes.service import through_service, verify_service
from torchrelay.targets.kubernetes.state import DeployedVersion, Live
from torchrelay.targets.kubernetes.waiting import is_complete, sweep_candidates
from torchrelay.verification.prober import ProbeAnswer, ProbeRequest
from torchrelay.verification.replay import answers_correctly

log = logging.getLogger(__name__)
NAME = "kubernetes"


class KubernetesTarget:
    """See `contract.Target`. `place_s`: how long a pod may take to get a node and its image, in seconds.

    `connect` and `render` return the cluster's API and a release's manifests.
    """

    def __init__(
        self,
        context: Context,
        place_s: float = PLACE_S,
        *,
        connect: Callable[[Kubernetes], Api] = connect,
        render: Callable[[Model, Release], list[Document]] = render,
    ) -> None:
        self.context = context
        self.model = context.model
        self.name = context.model.name
        self.settings = settings_of(context.model)
        self.place_s = place_s
        self.connect = connect
        self.render = render

    @property
    def url(self) -> str:
        """The address for other pods of the cluster."""
        return f"http://{self.name}.{self.settings.namespace}.svc{predict_path(self.name)}"

    def plan(self, release: Release) -> DeployPlan:
        """See `contract.Target`."""
        api = self.connect(self.settings)
        live = self._live(api)
        rendered = self._rendered(release, live)
        if live is not None and is_unchanged(api, live, rendered):
            return DeployPlan(unchanged=True, steps=(f"keep {self.name}, which serves {release.digest}",))
        apply_kinds(api, rendered, *MANAGED_KINDS, dry_run=True)
        where = f"in namespace {self.settings.namespace} of {api.server}"
        steps = [
            f"start a pod of {release.reference} {where}, without traffic, and verify it with {len(release.samples)} samples",
            *(f"apply {document['kind']} {document['metadata']['name']}" for document in rendered.documents),
            "wait until it has rolled out, and send the samples through the Service",
        ]
        if live is not None and live.last_verified is not None:
            steps.append(f"if that fails, go back to {live.last_verified.digest}")
        return DeployPlan(unchanged=False, steps=tuple(steps))

    def apply(self, release: Release) -> Endpoint:
        """See `contract.Target`."""
        with self._rollout() as rollout:
            api, live = rollout.api, rollout.live
            rendered = self._rendered(release, live)
            sweep_candidates(api, self.name)
            if live is not None:
                contract.require_newer(release.source, live.version.source, f"{self.settings.namespace}/{self.name}")
                if is_unchanged(api, live, rendered) and self._still_serves(api, release):
                    rollout.keep(live, rendered)
                    return replace(self._endpoint(api, live), skipped=True)
            rollout.deploy(rendered, release.samples)
            return self._endpoint(api, rollout.live)

    def status(self) -> Endpoint:
        """See `contract.Target`."""
        api = self.connect(self.settings)
        return self._endpoint(api, self._live(api))

    def verify(self, samples: Sequence[Sample]) -> None:
        """See `contract.Target`."""
        verify_service(self.connect(self.settings), self.model, samples)

    def invoke(self, request: ProbeRequest, timeout_s: float = 60.0) -> ProbeAnswer:
        """See `contract.Target`."""
        return through_service(self.connect(self.settings), self.name).send([request], 1, timeout_s)[0]

    def logs(self, lines: int = 200) -> str:
        """See `contract.Target`."""
        api = self.connect(self.settings)
        pods = [str(pod["metadata"]["name"]) for pod in api.list("Pod", selector(self.name))]
        if len(pods) == 1:
            return api.log(pods[0], lines)
        return "\n".join(f"==> {pod} <==\n{api.log(pod, lines)}" for pod in sorted(pods))

    def rollback(self) -> Endpoint:
        """See `contract.Target`."""
        with self._rollout() as rollout:
            rollout.go_back()
            return self._endpoint(rollout.api, rollout.live)

    def delete(self) -> bool:
        """See `contract.Target`."""
        with self._rollout(read_state=False) as rollout:
            removed = rollout.delete()
        contract.forget_record(self.context, NAME)
        return removed

    @contextmanager
    def _rollout(self, *, read_state: bool = True) -> Iterator[Rollout]:
        """Hold the model's lock; `read_state=False` also accepts a Deployment whose annotations are damaged."""
        api = self.connect(self.settings)
        with hold_lease(api, self.name, 2 * (self.place_s + startup_s(self.model))) as held:
            yield Rollout(held, self.model, self._live(api) if read_state else None, self.place_s, self._record)

    def _live(self, api: Api) -> Live | None:
        return state.read(api.get("Deployment", self.name))

    def _rendered(self, release: Release, live: Live | None) -> RenderedRelease:
        documents = self.render(self.model, release)
        if live is not None and state.is_scaled_by_cluster(live.document):
            deployment = of_kind(documents, "Deployment")
            deployment["spec"] = state.without_replicas(deployment["spec"])
        return RenderedRelease(documents, state.version_of(release, documents))

    def _still_serves(self, api: Api, release: Release) -> bool:
        try:
            return answers_correctly(through_service(api, self.name), self.model, release.samples)
        except (GateFailed, DeployFailed) as failure:
            log.warning("%s no longer answers: %s", self.name, failure.message)
            return False

    def _record(self, version: DeployedVersion, previous: DeployedVersion | None) -> None:
        def entry(one: DeployedVersion | None) -> Deployed | None:
            return Deployed(one.digest, one.version, one.image, one.since) if one else None

        contract.write_record(self.context, NAME, DeploymentRecord(entry(version), entry(previous)))

    def _endpoint(self, api: Api, live: Live | None) -> Endpoint:
        if live is None:
            return Endpoint(NAME, self.url, "", "", "absent")
        endpoint_state, detail = self._state(api, live)
        previous = live.previous.digest if live.previous else ""
        return Endpoint(NAME, self.url, live.version.digest, live.version.version, endpoint_state, detail, previous)

    def _state(self, api: Api, live: Live) -> tuple[State, str]:
        """Return the state of the live version, by its pods, and the reason."""
        pods = api.list("Pod", selector(self.name))
        if not any(is_ready(pod) for pod in pods):
            return "not_ready", state_of(pods)
        if not is_complete(live.document):
            return "not_ready", f"a rollout is under way: {state_of(pods)}"
        image = live.document["spec"]["template"]["spec"]["containers"][0]["image"]
        if image != live.version.image:
            return "ready", f"changed by hand: {image} runs"
        return "ready", "" if live.verified else "a deploy was interrupted: deploy again"
