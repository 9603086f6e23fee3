"""What the kubernetes target may do in its namespace: asked for by doctor, granted by infra/kubernetes/deployer-role.yaml."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Rule:
    """Verbs on one resource; `resource` may name a part of it, as pods/log."""

    group: str
    resource: str
    verbs: tuple[str, ...]


# Server-side apply of an object that may be there or not is a patch, and a create when it is not.
APPLIED = ("get", "create", "patch", "delete")

RULES = (
    Rule("apps", "deployments", (*APPLIED, "list", "watch")),
    Rule("apps", "replicasets", ("get", "list")),
    Rule("", "services", APPLIED),
    Rule("", "serviceaccounts", APPLIED),
    Rule("policy", "poddisruptionbudgets", APPLIED),
    Rule("", "pods", ("get", "list", "watch", "create", "delete")),
    Rule("", "pods/log", ("get",)),
    Rule("", "events", ("list",)),
)
