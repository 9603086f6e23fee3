"""Finds the reason why a pod does not run or a rollout is stuck: pure functions of the API's documents."""

from collections.abc import Iterable
from dataclasses import dataclass

from torchrelay.core.errors import DeployFailed, GateFailed
from torchrelay.targets.kubernetes.api_errors import admission_fix
from torchrelay.targets.kubernetes.manifests import CONTAINER, Document

PULL = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable", "ImageInspectError")
CREATE = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError", "PreCreateHookError", "PreStartHookError")
RESTARTS = 2
"""Restarts of a container after which it is given up: the same version ran before, as candidate."""


@dataclass(frozen=True)
class Trouble:
    """The reason why a pod does not run, and its fix.

    `certain`: waiting longer than a moment does not help; `gate`: the version is the cause, not the cluster.
    """

    what: str
    fix: str
    certain: bool
    gate: bool

    def error(self) -> GateFailed | DeployFailed:
        """Return it as an error."""
        return (GateFailed if self.gate else DeployFailed)(self.what, self.fix)


def container_status(pod: Document) -> Document:
    """Return the status of the server's container, empty before it exists."""
    statuses = (pod.get("status") or {}).get("containerStatuses") or []
    return next((one for one in statuses if one.get("name") == CONTAINER), {})


def condition(document: Document, kind: str) -> Document:
    """Return one of an object's conditions, empty when it has none of that kind."""
    conditions = (document.get("status") or {}).get("conditions") or []
    return next((one for one in conditions if one.get("type") == kind), {})


def is_ready(pod: Document) -> bool:
    """Return whether a pod gets traffic."""
    return condition(pod, "Ready").get("status") == "True" and not is_ending(pod)


def is_ending(pod: Document) -> bool:
    """Return whether a pod is being deleted."""
    return bool(pod["metadata"].get("deletionTimestamp"))


def is_over(pod: Document) -> bool:
    """Return whether a pod has ended for good, such as an evicted one."""
    return (pod.get("status") or {}).get("phase") in ("Failed", "Succeeded")


def is_running(pod: Document) -> bool:
    """Return whether the server's container has started."""
    return "running" in (container_status(pod).get("state") or {})


def ended(state: Document) -> str:
    """Describe how a container ended."""
    if state.get("reason") == "OOMKilled":
        return "was killed for memory"
    code = state.get("exitCode")
    message = str(state.get("message") or "").strip()
    return f"ended with code {code}" + (f": {message}" if message else "")


def trouble_of(pod: Document) -> Trouble | None:
    """Return the reason why a pod does not run, None when it runs or is starting."""
    return _waiting_trouble(pod) or _ended_trouble(pod) or _node_trouble(pod)


def _describe(pod: Document) -> str:
    return f"`kubectl -n {pod['metadata'].get('namespace', 'default')} describe pod {pod['metadata']['name']}`"


def _waiting_trouble(pod: Document) -> Trouble | None:
    waiting = (container_status(pod).get("state") or {}).get("waiting") or {}
    reason, message = str(waiting.get("reason") or ""), str(waiting.get("message") or "").strip()
    if reason in PULL:
        return Trouble(f"the image cannot be pulled: {message or reason}", pull_fix(message, pod), True, False)
    if reason in CREATE:
        return Trouble(f"the container cannot be created: {reason}: {message}", _describe(pod), True, False)
    return None


def _ended_trouble(pod: Document) -> Trouble | None:
    status, container = pod.get("status") or {}, container_status(pod)
    state, last = container.get("state") or {}, (container.get("lastState") or {}).get("terminated") or {}
    if terminated := state.get("terminated"):
        return Trouble(f"the container {ended(terminated)} before it was ready", memory_fix(terminated), True, True)
    if status.get("phase") == "Failed":
        return Trouble(
            f"the pod failed: {status.get('reason', '')} {status.get('message', '')}".strip(), _describe(pod), True, False
        )
    looping = (state.get("waiting") or {}).get("reason") == "CrashLoopBackOff"
    if looping or int(container.get("restartCount") or 0) >= RESTARTS:
        return Trouble(f"the container {ended(last)} again and again", memory_fix(last), True, True)
    return None


def _node_trouble(pod: Document) -> Trouble | None:
    placed = condition(pod, "PodScheduled")
    if placed.get("status") != "False":
        return None
    message = str(placed.get("message", ""))
    return Trouble(f"no node accepts the pod: {message}", place_fix(message), False, False)


def pull_fix(message: str, pod: Document) -> str:
    """Return the fix for a failed pull, by the container runtime's message.

    When a first deploy fails, the ServiceAccount that it created is removed; one created by hand stays.
    """
    if any(words in message for words in ("not found", "manifest unknown", "NotFound")):
        return "push the image again: the registry has no such digest"
    if any(words in message for words in ("401", "403", "unauthorized", "denied", "no basic auth")):
        account = (pod.get("spec") or {}).get("serviceAccountName") or "of the model's name"
        where = f"`kubectl -n {pod['metadata'].get('namespace', 'default')} create serviceaccount`"
        return (
            f"let the nodes read the registry, or create ServiceAccount {account} with imagePullSecrets yourself ({where}): "
            "it is then left unchanged"
        )
    return "check that the nodes reach the registry under this name"


def memory_fix(state: Document) -> str:
    """Return the fix for a container that ended, "" when none is known."""
    if state.get("reason") == "OOMKilled" or state.get("exitCode") == 137:
        return "raise resources.memory in model.yaml, or make the model need less"
    return ""


def place_fix(message: str) -> str:
    """Return the fix for a pod that no node accepts."""
    lacking = [what for what, words in {"cpu": "Insufficient cpu", "memory": "Insufficient memory"}.items() if words in message]
    if lacking:
        return f"lower resources.{' and resources.'.join(lacking)} in model.yaml, or add a node: rollouts need one more pod"
    if "nvidia.com/gpu" in message:
        return "add a node with a free GPU and its device plugin, or set device: cpu in model.yaml"
    return "add a node that accepts it"


def refused_pods(replica_set: Document) -> Trouble | None:
    """Return why a ReplicaSet cannot create pods: a quota, Pod Security, a webhook."""
    failure = condition(replica_set, "ReplicaFailure")
    if failure.get("status") != "True":
        return None
    message = str(failure.get("message") or "")
    return Trouble(f"the cluster refuses new pods: {message}", admission_fix(message), True, False)


def state_of(pods: Iterable[Document]) -> str:
    """Describe the state of pods in one line."""
    states = []
    for pod in pods:
        status, container = pod.get("status") or {}, container_status(pod)
        waiting = (container.get("state") or {}).get("waiting") or {}
        pod_state = waiting.get("reason") or ("running, not ready" if is_running(pod) else status.get("phase", "Pending"))
        states.append(f"{pod['metadata']['name']} {'ready' if is_ready(pod) else pod_state}")
    return ", ".join(states) or "there are no pods"
