"""Why a pod does not run or a rollout does not go on: pure functions of what the API tells of them."""

from collections.abc import Iterable
from dataclasses import dataclass

from torchrelay.core.errors import DeployFailed, GateFailed
from torchrelay.targets.kubernetes.api_errors import admission_fix
from torchrelay.targets.kubernetes.manifests import CONTAINER, Document

PULL = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable", "ImageInspectError")
CREATE = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError", "PreCreateHookError", "PreStartHookError")
RESTARTS = 2
"""Restarts of a container after which it is not waited for any longer: the version ran before, as candidate."""


@dataclass(frozen=True)
class Trouble:
    """What keeps a pod from running and what mends it.

    `certain`: waiting does not help, but for a moment; `gate`: the version's own doing, not the cluster's.
    """

    what: str
    fix: str
    certain: bool
    gate: bool

    def error(self) -> GateFailed | DeployFailed:
        """Return it as an error."""
        return (GateFailed if self.gate else DeployFailed)(self.what, self.fix)


def container_status(pod: Document) -> Document:
    """Return the status of the server's container, empty before there is one."""
    statuses = (pod.get("status") or {}).get("containerStatuses") or []
    return next((one for one in statuses if one.get("name") == CONTAINER), {})


def condition(document: Document, kind: str) -> Document:
    """Return one of an object's conditions, empty when it has none of that kind."""
    conditions = (document.get("status") or {}).get("conditions") or []
    return next((one for one in conditions if one.get("type") == kind), {})


def is_ready(pod: Document) -> bool:
    """Tell whether a pod gets traffic."""
    return condition(pod, "Ready").get("status") == "True" and not is_ending(pod)


def is_ending(pod: Document) -> bool:
    """Tell whether a pod was told to end."""
    return bool(pod["metadata"].get("deletionTimestamp"))


def is_over(pod: Document) -> bool:
    """Tell whether a pod has ended for good, as an evicted one."""
    return (pod.get("status") or {}).get("phase") in ("Failed", "Succeeded")


def is_running(pod: Document) -> bool:
    """Tell whether the server's container has started."""
    return "running" in (container_status(pod).get("state") or {})


def ended(state: Document) -> str:
    """Say how a container ended."""
    if state.get("reason") == "OOMKilled":
        return "was killed for memory"
    code = state.get("exitCode")
    said = str(state.get("message") or "").strip()
    return f"ended with code {code}" + (f": {said}" if said else "")


def trouble_of(pod: Document) -> Trouble | None:
    """Return what keeps a pod from running, None when it runs or is on its way."""
    return _waits_in_vain(pod) or _has_ended(pod) or _has_no_node(pod)


def _look(pod: Document) -> str:
    return f"`kubectl -n {pod['metadata'].get('namespace', 'default')} describe pod {pod['metadata']['name']}`"


def _waits_in_vain(pod: Document) -> Trouble | None:
    waiting = (container_status(pod).get("state") or {}).get("waiting") or {}
    reason, said = str(waiting.get("reason") or ""), str(waiting.get("message") or "").strip()
    if reason in PULL:
        return Trouble(f"the image cannot be pulled: {said or reason}", pull_fix(said, pod), True, False)
    if reason in CREATE:
        return Trouble(f"the container cannot be made: {reason}: {said}", _look(pod), True, False)
    return None


def _has_ended(pod: Document) -> Trouble | None:
    status, container = pod.get("status") or {}, container_status(pod)
    state, last = container.get("state") or {}, (container.get("lastState") or {}).get("terminated") or {}
    if terminated := state.get("terminated"):
        return Trouble(f"the container {ended(terminated)} before it was ready", memory_fix(terminated), True, True)
    if status.get("phase") == "Failed":
        return Trouble(f"the pod failed: {status.get('reason', '')} {status.get('message', '')}".strip(), _look(pod), True, False)
    looping = (state.get("waiting") or {}).get("reason") == "CrashLoopBackOff"
    if looping or int(container.get("restartCount") or 0) >= RESTARTS:
        return Trouble(f"the container {ended(last)} again and again", memory_fix(last), True, True)
    return None


def _has_no_node(pod: Document) -> Trouble | None:
    placed = condition(pod, "PodScheduled")
    if placed.get("status") != "False":
        return None
    said = str(placed.get("message", ""))
    return Trouble(f"no node takes the pod: {said}", place_fix(said), False, False)


def pull_fix(said: str, pod: Document) -> str:
    """Return what mends a pull, by what the runtime said of it.

    The ServiceAccount of a first deploy that fails is removed with it; one that was made by hand is not.
    """
    if any(words in said for words in ("not found", "manifest unknown", "NotFound")):
        return "push the image again: the registry has no such digest"
    if any(words in said for words in ("401", "403", "unauthorized", "denied", "no basic auth")):
        account = (pod.get("spec") or {}).get("serviceAccountName") or "of the model's name"
        where = f"`kubectl -n {pod['metadata'].get('namespace', 'default')} create serviceaccount`"
        return (
            f"let the nodes read the registry, or create ServiceAccount {account} with imagePullSecrets yourself ({where}): "
            "it is then left alone"
        )
    return "see whether the nodes reach the registry under this name"


def memory_fix(state: Document) -> str:
    """Return what mends a container's end."""
    if state.get("reason") == "OOMKilled" or state.get("exitCode") == 137:
        return "raise resources.memory in model.yaml, or make the model need less"
    return ""


def place_fix(said: str) -> str:
    """Return what mends a pod that no node takes."""
    wanting = [what for what, words in {"cpu": "Insufficient cpu", "memory": "Insufficient memory"}.items() if words in said]
    if wanting:
        return (
            f"lower resources.{' and resources.'.join(wanting)} in model.yaml, or add a node: one pod more than replicas is needed"
        )
    if "nvidia.com/gpu" in said:
        return "add a node with a free GPU and its device plugin, or set device: cpu in model.yaml"
    return "add a node that takes it"


def refused_pods(replica_set: Document) -> Trouble | None:
    """Return why a ReplicaSet may not make pods: a quota, Pod Security, a webhook."""
    failure = condition(replica_set, "ReplicaFailure")
    if failure.get("status") != "True":
        return None
    said = str(failure.get("message") or "")
    return Trouble(f"the cluster refuses new pods: {said}", admission_fix(said), True, False)


def state_of(pods: Iterable[Document]) -> str:
    """Say in a line how pods are doing, for a wait that ended in nothing else."""
    told = []
    for pod in pods:
        status, container = pod.get("status") or {}, container_status(pod)
        waiting = (container.get("state") or {}).get("waiting") or {}
        how = waiting.get("reason") or ("running, not ready" if is_running(pod) else status.get("phase", "Pending"))
        told.append(f"{pod['metadata']['name']} {'ready' if is_ready(pod) else how}")
    return ", ".join(told) or "there are no pods"
