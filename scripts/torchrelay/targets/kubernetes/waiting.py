"""Waits for pods: for the candidate to be ready, and for a Deployment to roll; raises the reason when they do not."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from torchrelay.core.errors import DeployFailed, GateFailed
from torchrelay.core.retry import pause
from torchrelay.model.model import Model
from torchrelay.targets import contract
from torchrelay.targets.kubernetes.api import Api
from torchrelay.targets.kubernetes.exec import pod_prober
from torchrelay.targets.kubernetes.manifests import CANDIDATE, Document, candidate, grace_s, selector, startup_s
from torchrelay.targets.kubernetes.pod_trouble import (
    Trouble,
    condition,
    is_ending,
    is_over,
    is_ready,
    is_running,
    refused_pods,
    state_of,
    trouble_of,
)
from torchrelay.verification.prober import Readiness
from torchrelay.verification.ready import STARTUP_FIX, wait_ready

log = logging.getLogger(__name__)
POLL_S = 0.5
TROUBLE_S = 20.0
"""Seconds for a trouble that may pass by itself, such as an unreachable registry."""
OBSERVED_S = 5.0
REVISION = "deployment.kubernetes.io/revision"


@dataclass
class Patience:
    """How long a trouble has lasted."""

    since: float = 0.0
    what: str = ""

    def spent(self, now: float, trouble: Trouble | None) -> bool:
        """Note the trouble at `now` (seconds of any monotonic clock); return whether to give up.

        A container that has ended is given up at once; any other trouble after `TROUBLE_S`.
        """
        if trouble is None or not trouble.certain:
            self.what = ""
            return False
        if trouble.gate:
            return True
        if not self.what:
            self.since, self.what = now, trouble.what
        return now - self.since > TROUBLE_S


@dataclass
class RolloutProgress:
    """The last change of a Deployment's pod counts, and when it was."""

    since: float
    counts: tuple[int, ...] = ()
    patience: Patience = field(default_factory=Patience)

    def stuck(self, now: float, document: Document, limit_s: float) -> bool:
        """Note the Deployment's state at `now`; return whether nothing has changed for `limit_s` seconds."""
        status = document.get("status") or {}
        counts = tuple(int(status.get(key) or 0) for key in ("updatedReplicas", "readyReplicas", "availableReplicas", "replicas"))
        if counts != self.counts:
            self.counts, self.since = counts, now
        return now - self.since > limit_s


def is_complete(document: Document) -> bool:
    """Return whether all pods of a Deployment run its newest version and get traffic, as `kubectl rollout status` decides it."""
    status, replicas = document.get("status") or {}, int(document["spec"].get("replicas", 1))
    if int(status.get("observedGeneration") or 0) < int(document["metadata"]["generation"]):
        return False
    updated, total = int(status.get("updatedReplicas") or 0), int(status.get("replicas") or 0)
    return updated >= replicas and total <= updated and int(status.get("availableReplicas") or 0) >= updated


def sweep_candidates(api: Api, name: str) -> bool:
    """Remove the candidates that a killed run left; return whether there were any."""
    left = [pod for pod in api.list("Pod", selector(name, CANDIDATE)) if not is_ending(pod)]
    for pod in left:
        api.delete("Pod", pod["metadata"]["name"], grace_s=1)
    return bool(left)


def newest_pods(api: Api, document: Document, name: str) -> tuple[list[Document], Trouble | None, str]:
    """Return the pods of a Deployment's newest version, the trouble that delays them, and the name of the pod that has it.

    Evicted pods are left out: they stay for hours after others took their place, and delay nothing.
    """
    revision = (document["metadata"].get("annotations") or {}).get(REVISION)
    replica_sets = api.list("ReplicaSet", selector(name))
    newest = next((one for one in replica_sets if (one["metadata"].get("annotations") or {}).get(REVISION) == revision), None)
    if newest is None:
        return [], None, ""
    template_hash = newest["metadata"]["labels"]["pod-template-hash"]
    listed = api.list("Pod", f"{selector(name)},pod-template-hash={template_hash}")
    pods = [pod for pod in listed if not is_ending(pod) and not is_over(pod)]
    for pod in pods:
        if not is_ready(pod) and (trouble := trouble_of(pod)):
            return pods, trouble, str(pod["metadata"]["name"])
    unready = next((str(pod["metadata"]["name"]) for pod in pods if not is_ready(pod)), "")
    return pods, refused_pods(newest), unready


class PodWaits:
    """Waits for the pods of one model. `place_s`: how long a pod may take to get a node and its image, in seconds."""

    def __init__(self, api: Api, model: Model, place_s: float) -> None:
        self.api = api
        self.model = model
        self.name = model.name
        self.place_s = place_s

    @contextmanager
    def running_candidate(self, deployment: Document) -> Iterator[str]:
        """Start a pod that gets no traffic, wait until it is ready, and return its name; remove it in any case.

        Raises GateFailed when the version does not become ready, DeployFailed when the cluster does not run it.
        """
        pod = candidate(deployment, int(self.place_s) + startup_s(self.model) + 3600)
        name = pod["metadata"]["name"]
        try:
            self.api.apply(pod)
            log.info("starting %s, which gets no traffic", name)
            seconds = self._started(name)
            log.info("%s is ready after %.1f s", name, seconds)
            yield name
        finally:
            self.api.delete("Pod", name, grace_s=1)

    def _started(self, name: str) -> float:
        """Wait until a worker of the candidate has answered; return the seconds since its container started."""
        begin, patience = time.monotonic(), Patience()
        while True:
            pod = self.api.get("Pod", name)
            if pod is None:
                raise DeployFailed(f"pod {name} was removed by others", "run it again")
            trouble, now = trouble_of(pod), time.monotonic()
            if trouble is not None and patience.spent(now, trouble):
                raise self._explained(trouble, name)
            if is_running(pod):
                return self._ready(name)
            if now - begin > self.place_s:
                message = f"not started after {self.place_s:.0f} s: {state_of([pod])}"
                raise self._explained(trouble or Trouble(message, f"`kubectl describe pod {name}`", True, False), name)
            pause(POLL_S)

    def _ready(self, name: str) -> float:
        prober = pod_prober(self.api, name)

        def ask() -> Readiness:
            try:
                return prober.ready()
            except GateFailed:
                pod = self.api.get("Pod", name) or {"metadata": {"name": name}}
                if (trouble := trouble_of(pod)) is None:
                    raise
                raise trouble.error() from None

        def read_log(lines: int | None) -> str:
            return self.api.log_or_reason(name, lines)

        try:
            return wait_ready(ask, read_log, startup_s(self.model), poll_s=POLL_S)
        except GateFailed as failure:
            raise contract.explained(failure, read_log(None), lines=25) from failure

    def rolled(self) -> None:
        """Wait until the Deployment has rolled; as long as its pods change, there is no time limit.

        Raises GateFailed, DeployFailed with the reason of the pods that delay it.
        """
        limit_s = self.place_s + startup_s(self.model)
        progress = RolloutProgress(time.monotonic())
        while True:
            document = self.api.get("Deployment", self.name)
            if document is None:
                raise DeployFailed(f"Deployment {self.name} was removed by others", "run it again")
            if is_complete(document):
                return
            now = time.monotonic()
            pods, trouble, culprit = newest_pods(self.api, document, self.name)
            if trouble is not None and progress.patience.spent(now, trouble):
                raise self._explained(trouble, culprit)
            late = condition(document, "Progressing").get("reason") == "ProgressDeadlineExceeded"
            if progress.stuck(now, document, limit_s) or (late and trouble):
                stuck = Trouble(f"the rollout is stuck: {state_of(pods)}", STARTUP_FIX, True, True)
                raise self._explained(trouble or stuck, culprit)
            pause(POLL_S)

    def observed(self) -> None:
        """Wait a moment until the controller has processed the last change, so that the status describes it."""
        deadline = time.monotonic() + OBSERVED_S
        while time.monotonic() < deadline:
            document = self.api.get("Deployment", self.name)
            if document is None or is_complete(document):
                return
            pause(0.1)

    def replaced_gone(self, seconds: float) -> None:
        """Wait until the replaced pods have ended, or until no proxy sends anything to them any more."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and any(is_ending(pod) for pod in self.api.list("Pod", selector(self.name))):
            pause(POLL_S)

    def removed(self) -> None:
        """Wait until the model has no pod any more.

        Raises DeployFailed.
        """
        deadline = time.monotonic() + grace_s(self.model) + 30
        while left := [*self.api.list("Pod", selector(self.name)), *self.api.list("ReplicaSet", selector(self.name))]:
            if time.monotonic() > deadline:
                raise DeployFailed(f"{state_of(left)}: does not end", "check its node: `kubectl get pods -o wide`")
            pause(POLL_S)

    def _explained(self, trouble: Trouble, pod: str) -> GateFailed | DeployFailed:
        """Return a trouble as an error, with the traceback of the server's log, if any."""
        error = trouble.error()
        if isinstance(error, GateFailed) and pod:
            text = self.api.log_or_reason(pod, previous=True) or self.api.log_or_reason(pod)
            return contract.explained(error, text, lines=25)
        return error
