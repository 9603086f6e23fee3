"""What the kubernetes target may do in its namespace: asked for by doctor, granted by infra/kubernetes/deployer-role.yaml."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Rule:
    """Verbs on one resource; `resource` may name a part of it, as pods/log."""

    group: str
    resource: str
    verbs: tuple[str, ...]


# Server-side apply of an object is a patch, and a create when it is not there.
APPLIED = ("get", "create", "patch", "delete")

RULES = (
    Rule("apps", "deployments", APPLIED),
    Rule("apps", "replicasets", ("list",)),
    Rule("", "services", APPLIED),
    Rule("", "serviceaccounts", APPLIED),
    Rule("policy", "poddisruptionbudgets", APPLIED),
    Rule("", "pods", (*APPLIED, "list")),
    Rule("", "pods/log", ("get",)),
    Rule("", "pods/exec", ("get", "create")),  # the samples; a websocket was a get alone before Kubernetes 1.35
    Rule("coordination.k8s.io", "leases", ("get", "create", "update", "delete")),  # one deployment at a time
)
