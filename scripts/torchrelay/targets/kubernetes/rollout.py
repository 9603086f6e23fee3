"""Waits for pods: for the candidate to answer, and for a Deployment to have rolled; gives the reason when they do not."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from torchrelay.core.errors import DeployFailed, GateFailed
from torchrelay.model.model import Model
from torchrelay.targets import contract
from torchrelay.targets.kubernetes.api import Api
from torchrelay.targets.kubernetes.exec import PodProber
from torchrelay.targets.kubernetes.manifests import CANDIDATE, CONTAINER, Document, candidate, grace_s, selector, startup_s
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
from torchrelay.verification import diagnosis
from torchrelay.verification.ready import LOAD_FIX, LOG_LINES, REFUSED, REFUSED_S, STARTUP_FIX

log = logging.getLogger(__name__)
POLL_S = 0.5
TROUBLE_S = 20.0
"""Seconds for what looks hopeless to mend itself: a registry that is away for a moment."""
OBSERVED_S = 5.0
REVISION = "deployment.kubernetes.io/revision"


@dataclass
class Patience:
    """How long a trouble has been seen for."""

    since: float = 0.0
    what: str = ""

    def spent(self, now: float, trouble: Trouble | None) -> bool:
        """Take in what is seen `now` (seconds of any steady clock); say whether it is to be given up.

        What has ended is given up at once: the rest may be of another moment.
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
class Rollout:
    """What was seen of a rollout: how far it is, and since when."""

    since: float
    seen: tuple[int, ...] = ()
    patience: Patience = field(default_factory=Patience)

    def stuck(self, now: float, document: Document, limit_s: float) -> bool:
        """Take in a look at the Deployment; say whether nothing has moved for `limit_s` seconds."""
        status = document.get("status") or {}
        seen = tuple(int(status.get(key) or 0) for key in ("updatedReplicas", "readyReplicas", "availableReplicas", "replicas"))
        if seen != self.seen:
            self.seen, self.since = seen, now
        return now - self.since > limit_s


def is_complete(document: Document) -> bool:
    """Tell whether all pods of a Deployment are of its newest version and get traffic, as kubectl `rollout status` reckons."""
    status, wanted = document.get("status") or {}, int(document["spec"].get("replicas", 1))
    if int(status.get("observedGeneration") or 0) < int(document["metadata"]["generation"]):
        return False
    updated, total = int(status.get("updatedReplicas") or 0), int(status.get("replicas") or 0)
    return updated >= wanted and total <= updated and int(status.get("availableReplicas") or 0) >= updated


@contextmanager
def running_candidate(api: Api, model: Model, deployment: Document, place_s: float) -> Iterator[str]:
    """Start a pod that gets no traffic and wait until it answers; gives its name, and removes it in any case.

    Raises GateFailed when the version does not get ready, DeployFailed when the cluster does not run it.
    """
    pod = candidate(deployment, int(place_s) + startup_s(model) + 3600)
    name = pod["metadata"]["name"]
    try:
        api.apply(pod)
        log.info("starting %s, which gets no traffic", name)
        seconds = wait_ready(api, model, name, place_s)
        log.info("%s is ready after %.1f s", name, seconds)
        yield name
    finally:
        api.delete("Pod", name, grace_s=1)


def sweep_candidates(api: Api, name: str) -> bool:
    """Remove the candidates that a killed run left; says whether there were any."""
    found = [pod for pod in api.list("Pod", selector(name, CANDIDATE)) if not is_ending(pod)]
    for pod in found:
        api.delete("Pod", pod["metadata"]["name"], grace_s=1)
    return bool(found)


def wait_ready(api: Api, model: Model, name: str, place_s: float) -> float:
    """Wait until a worker of the candidate has answered; return the seconds it took from the container's start.

    Raises GateFailed, DeployFailed.
    """
    asked, patience = time.monotonic(), Patience()
    while True:
        pod = api.get("Pod", name)
        if pod is None:
            raise DeployFailed(f"pod {name} was removed by others", "run it again")
        trouble, now = trouble_of(pod), time.monotonic()
        if trouble is not None and patience.spent(now, trouble):
            raise _told(api, trouble, name)
        if is_running(pod):
            return _wait_answer(api, model, name)
        if now - asked > place_s:
            late = Trouble(f"not started after {place_s:.0f} s: {state_of([pod])}", f"`kubectl describe pod {name}`", True, False)
            raise _told(api, trouble or late, name)
        time.sleep(POLL_S)


def _wait_answer(api: Api, model: Model, name: str) -> float:
    begin, prober = time.monotonic(), PodProber(api, name)
    limit_s, reason, refused_since = startup_s(model), "not asked yet", None
    while time.monotonic() - begin < limit_s:
        try:
            state = prober.ready()
        except GateFailed:
            pod = api.get("Pod", name) or {"metadata": {"name": name}}
            if (trouble := trouble_of(pod)) is None:
                raise
            raise _told(api, trouble, name) from None
        if state.ready:
            return time.monotonic() - begin
        reason = state.reason
        if state.failed or diagnosis.has_failed_to_load(api.log_or_why(name, CONTAINER, LOG_LINES)):
            time.sleep(POLL_S)  # two threads write the log: the end of the traceback may come last
            text = api.log_or_why(name, CONTAINER)
            why = diagnosis.load_failure(text, reason if state.failed else "its process died")
            fix = STARTUP_FIX if "startup_s" in why else LOAD_FIX
            raise contract.explained(GateFailed(f"the model does not load: {why}", fix), text, lines=25)
        refused_since = (refused_since or time.monotonic()) if reason.startswith(REFUSED) else None
        if refused_since is not None and time.monotonic() - refused_since > REFUSED_S:
            failure = GateFailed(f"the model loads but does not answer: {reason}", LOAD_FIX)
            raise contract.explained(failure, api.log_or_why(name, CONTAINER), lines=25)
        time.sleep(POLL_S)
    failure = GateFailed(f"not ready after {limit_s} s; last state: {reason}", STARTUP_FIX)
    raise contract.explained(failure, api.log_or_why(name, CONTAINER), lines=25)


def wait_rolled(api: Api, model: Model, name: str, place_s: float) -> None:
    """Wait until a Deployment has rolled; it may take as long as it goes on.

    Raises GateFailed, DeployFailed with the reason of the pods that hold it up.
    """
    limit_s = place_s + startup_s(model)
    rollout = Rollout(time.monotonic())
    while True:
        document = api.get("Deployment", name)
        if document is None:
            raise DeployFailed(f"Deployment {name} was removed by others", "run it again")
        if is_complete(document):
            return
        now = time.monotonic()
        pods, trouble, culprit = _newest(api, document, name)
        if trouble is not None and rollout.patience.spent(now, trouble):
            raise _told(api, trouble, culprit)
        late = condition(document, "Progressing").get("reason") == "ProgressDeadlineExceeded"
        if rollout.stuck(now, document, limit_s) or (late and trouble):
            raise _told(api, trouble or Trouble(f"the rollout does not go on: {state_of(pods)}", STARTUP_FIX, True, True), culprit)
        time.sleep(POLL_S)


def wait_observed(api: Api, name: str) -> None:
    """Wait a moment until the controller has seen what was applied last, so that the status is of it."""
    deadline = time.monotonic() + OBSERVED_S
    while time.monotonic() < deadline and (found := api.get("Deployment", name)) is not None and not is_complete(found):
        time.sleep(0.1)


def wait_gone(api: Api, name: str, seconds: float) -> None:
    """Wait until the pods that were replaced have ended, or until no proxy sends anything to them any more."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and any(is_ending(pod) for pod in api.list("Pod", selector(name))):
        time.sleep(POLL_S)


def wait_removed(api: Api, model: Model, name: str) -> None:
    """Wait until no pod of a model is left.

    Raises DeployFailed.
    """
    deadline = time.monotonic() + grace_s(model) + 30
    while left := [*api.list("Pod", selector(name)), *api.list("ReplicaSet", selector(name))]:
        if time.monotonic() > deadline:
            raise DeployFailed(f"{state_of(left)}: does not end", "see its node: `kubectl get pods -o wide`")
        time.sleep(POLL_S)


def ready_pod(api: Api, name: str) -> str | None:
    """Name a pod that gets traffic, None when there is none; the newest, as the others may be on their way out."""
    ready = [pod for pod in api.list("Pod", selector(name)) if is_ready(pod)]
    newest = sorted(ready, key=lambda pod: str(pod["metadata"]["creationTimestamp"]))
    return str(newest[-1]["metadata"]["name"]) if newest else None


def _newest(api: Api, document: Document, name: str) -> tuple[list[Document], Trouble | None, str]:
    """Return the pods of the newest version, what holds them up, and the name of the pod that tells of it.

    Evicted pods are left lying for hours after others took their place: they hold nothing up.
    """
    revision = (document["metadata"].get("annotations") or {}).get(REVISION)
    sets = api.list("ReplicaSet", selector(name))
    newest = next((one for one in sets if (one["metadata"].get("annotations") or {}).get(REVISION) == revision), None)
    if newest is None:
        return [], None, ""
    mark = newest["metadata"]["labels"]["pod-template-hash"]
    pods = [pod for pod in api.list("Pod", f"{selector(name)},pod-template-hash={mark}") if not is_ending(pod) and not is_over(pod)]
    for pod in pods:
        if not is_ready(pod) and (trouble := trouble_of(pod)):
            return pods, trouble, str(pod["metadata"]["name"])
    unready = next((str(pod["metadata"]["name"]) for pod in pods if not is_ready(pod)), "")
    return pods, refused_pods(newest), unready


def _told(api: Api, trouble: Trouble, pod: str) -> GateFailed | DeployFailed:
    """Return a trouble as an error, with the traceback of the server's log, if any."""
    error = trouble.error()
    if isinstance(error, GateFailed) and pod:
        text = api.log_or_why(pod, CONTAINER, previous=True) or api.log_or_why(pod, CONTAINER)
        return contract.explained(error, text, lines=25)
    return error
