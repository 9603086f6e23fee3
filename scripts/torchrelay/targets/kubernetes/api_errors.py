"""Turns the cluster API's refusals into errors with a fix: pure functions of its replies."""

import re
from typing import Any

from torchrelay.core import text
from torchrelay.core.errors import ClusterRefused, DeployFailed, TorchrelayError
from torchrelay.core.json_text import parse_untrusted

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
    """Return the API's `Status` object, empty when the reply contains none."""
    body = getattr(error, "body", None)
    try:
        document = parse_untrusted(body if isinstance(body, str | bytes) else "")
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def status_code(error: BaseException | None) -> int:
    """Return the HTTP status of a client's error, 0 when there was no reply."""
    return int(getattr(error, "status", 0) or 0)


def is_transient(error: BaseException) -> bool:
    """Return whether the same call may succeed in a moment: there was no reply, or the server had an error.

    An untrusted certificate stays untrusted.
    """
    return status_code(error) in TRANSIENT and "certificate" not in str(error).lower() and "CERTIFICATE" not in str(error)


def rule(verb: str, resource: str, group: str) -> str:
    """Return the line of a Role that allows a verb on a resource."""
    return f'- {{apiGroups: ["{group}"], resources: ["{resource}"], verbs: ["{verb}"]}}'


def refusal(error: BaseException, kind: str, name: str, namespace: str, server: str) -> TorchrelayError | None:
    """Return the error to raise for an error of the client; None for an object that is only missing."""
    status, document = status_code(error), status_of(error)
    message = str(document.get("message") or first_line(error))
    subject = f"{kind} {name}".strip()
    if missing := NO_NAMESPACE.search(message):
        return ClusterRefused(
            f"there is no namespace {missing['name']!r} on {server}",
            f"`kubectl create namespace {missing['name']}`, or name another in model.yaml: targets.kubernetes.namespace",
        )
    if status == 403:
        return forbidden(message, namespace)
    if status == 409:
        return conflict(document, subject, message)
    if status in (400, 413, 422):
        return DeployFailed(f"the cluster refuses {subject}: {message}", "correct model.yaml; an old cluster can lack a field")
    if status == 404:
        return None
    known = {
        0: (f"the Kubernetes API at {server} is unreachable: {message}", "check network and kubeconfig: `kubectl version`"),
        401: (f"{server} does not know these credentials", "log in again, or get a new kubeconfig"),
    }
    other = (f"{subject}: {server} answers {status}: {message}", "check the cluster's health, then run it again")
    return ClusterRefused(*known.get(status, other))


def forbidden(message: str, namespace: str) -> TorchrelayError:
    """Return why a call is forbidden: a missing permission, a quota, Pod Security, or another admission plugin."""
    if match := FORBIDDEN.search(message):
        line = rule(match["verb"], match["resource"], match["group"])
        return ClusterRefused(
            f"{match['user']} is not allowed to {match['verb']} {match['resource']} in namespace {namespace}",
            f"bind it to infra/kubernetes/deployer-role.yaml, or to a Role in {namespace} with {line}",
        )
    return DeployFailed(f"the cluster refuses the pod: {message}", admission_fix(message))


def admission_fix(message: str) -> str:
    """Return the fix for a pod that admission refuses."""
    if "exceeded quota" in message:
        return "raise the namespace's ResourceQuota (it needs one pod more than replicas), or lower resources in model.yaml"
    if match := SECURITY.search(message):
        return f"the manifests meet the restricted level of Pod Security: check what else changes pods here ({match['level']})"
    if "LimitRange" in message or "per Container" in message or "per Pod" in message:
        return "set resources in model.yaml within the namespace's LimitRange"
    return "check the cluster's admission policies"


def conflict(status: dict[str, Any], subject: str, message: str) -> ClusterRefused:
    """Return whose fields would be overwritten, as an error."""
    causes = (status.get("details") or {}).get("causes") or []
    owners = [(str(one.get("field", "")), re.search(r'conflict with "([^"]+)"', str(one.get("message", "")))) for one in causes]
    fields = "; ".join(f"{field} belongs to {owner[1]}" for field, owner in owners if owner)
    if not fields:
        return ClusterRefused(f"{subject}: {message}", "run it again")
    return ClusterRefused(
        f"{subject} was changed by others: {fields}", f"undo that change, or overwrite these fields with {FORCE}=1 for one run"
    )
