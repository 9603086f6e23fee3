"""What the cluster's API refuses, in words that say what mends it: pure functions of its answers."""

import json
import re
from typing import Any

from torchrelay.core import text
from torchrelay.core.errors import ClusterRefused, DeployFailed, TorchrelayError

FORBIDDEN = re.compile(
    r'User "(?P<user>[^"]*)" cannot (?P<verb>\w+) resource "(?P<resource>[^"]+)" in API group "(?P<group>[^"]*)"'
)
NO_NAMESPACE = re.compile(r'namespaces "(?P<name>[^"]+)" not found')
SECURITY = re.compile(r'violates PodSecurity "(?P<level>[^"]+)"')
FORCE = "TORCHRELAY_FORCE_CONFLICTS"
TRANSIENT = (0, 429, 500, 502, 503, 504)


def first_line(error: BaseException) -> str:
    """Return an API error in one line: its reason where it has one."""
    return text.first_line(getattr(error, "reason", None) or error, 500)


def status_of(error: BaseException) -> dict[str, Any]:
    """Return the API's `Status` object, empty when the answer holds none."""
    body = getattr(error, "body", None)
    try:
        found = json.loads(body if isinstance(body, str | bytes) else "")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def is_transient(error: BaseException) -> bool:
    """Tell whether the same call may succeed in a moment: nothing answered, or a server in trouble did.

    A certificate that is not trusted stays so.
    """
    status = int(getattr(error, "status", 0) or 0)
    return status in TRANSIENT and "certificate" not in str(error).lower() and "CERTIFICATE" not in str(error)


def rule(verb: str, resource: str, group: str) -> str:
    """Return the line of a Role that allows something."""
    return f'- {{apiGroups: ["{group}"], resources: ["{resource}"], verbs: ["{verb}"]}}'


def refusal(error: BaseException, kind: str, name: str, namespace: str, server: str) -> TorchrelayError | None:
    """Return what to raise for an error of the client; None for an object that is simply not there."""
    status, told = int(getattr(error, "status", 0) or 0), status_of(error)
    message = str(told.get("message") or first_line(error))
    what = f"{kind} {name}".strip()
    if missing := NO_NAMESPACE.search(message):
        return ClusterRefused(
            f"there is no namespace {missing['name']!r} on {server}",
            f"`kubectl create namespace {missing['name']}`, or name another in model.yaml: targets.kubernetes.namespace",
        )
    if status == 403:
        return forbidden(message, namespace)
    if status == 409:
        return conflict(told, what, message)
    if status in (400, 413, 422):
        return DeployFailed(f"the cluster refuses {what}: {message}", "correct model.yaml; an old cluster may not know a field")
    if status == 404:
        return None
    said = {
        0: (f"the Kubernetes API at {server} cannot be reached: {message}", "check network and kubeconfig: `kubectl version`"),
        401: (f"{server} does not know these credentials", "log in again, or get a new kubeconfig"),
    }
    other = (f"{what}: {server} answers {status}: {message}", "see the cluster's own health, then run it again")
    return ClusterRefused(*said.get(status, other))


def forbidden(message: str, namespace: str) -> TorchrelayError:
    """Return why something is forbidden: a missing right, a quota, Pod Security, or another admission plugin."""
    if found := FORBIDDEN.search(message):
        line = rule(found["verb"], found["resource"], found["group"])
        return ClusterRefused(
            f"{found['user']} may not {found['verb']} {found['resource']} in namespace {namespace}",
            f"give it infra/kubernetes/deployer-role.yaml, or a Role of {namespace} with {line}",
        )
    return DeployFailed(f"the cluster refuses the pod: {message}", admission_fix(message))


def admission_fix(message: str) -> str:
    """Return what mends a pod that admission refuses."""
    if "exceeded quota" in message:
        return "raise the namespace's ResourceQuota (one pod more than replicas is needed), or lower resources in model.yaml"
    if found := SECURITY.search(message):
        return f"the manifests keep the restricted level of Pod Security: see what else changes pods here ({found['level']})"
    if "LimitRange" in message or "per Container" in message or "per Pod" in message:
        return "set resources in model.yaml within the namespace's LimitRange"
    return "see which admission policy of the cluster says so"


def conflict(told: dict[str, Any], what: str, message: str) -> ClusterRefused:
    """Return whose fields would be overwritten."""
    causes = (told.get("details") or {}).get("causes") or []
    owned = [(str(one.get("field", "")), re.search(r'conflict with "([^"]+)"', str(one.get("message", "")))) for one in causes]
    fields = "; ".join(f"{field} belongs to {found[1]}" for field, found in owned if found)
    if not fields:
        return ClusterRefused(f"{what}: {message}", "run it again")
    return ClusterRefused(
        f"{what} was changed by others: {fields}", f"undo that change, or take the fields over with {FORCE}=1 for one run"
    )
