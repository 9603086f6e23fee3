"""The permissions that the kubernetes target needs: checked by doctor, granted by infra/kubernetes/deployer-role.yaml."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Rule:
    """Verbs on one resource, or on a subresource such as pods/log."""

    group: str
    resource: str
    verbs: tuple[str, ...]


# Server-side apply of an object is a patch, and a create when it is missing.
APPLIED = ("get", "create", "patch", "delete")

RULES = (
    Rule("apps", "deployments", APPLIED),
    Rule("apps", "replicasets", ("list",)),
    Rule("", "services", APPLIED),
    Rule("", "serviceaccounts", APPLIED),
    Rule("policy", "poddisruptionbudgets", APPLIED),
    Rule("networking.k8s.io", "networkpolicies", APPLIED),
    Rule("", "pods", (*APPLIED, "list")),
    Rule("", "pods/log", ("get",)),
    Rule("", "pods/exec", ("get", "create")),  # to send samples; before Kubernetes 1.35 a websocket needed only get
    Rule("coordination.k8s.io", "leases", ("get", "create", "update", "delete")),  # one deployment at a time
)
