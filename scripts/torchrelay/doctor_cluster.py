"""What doctor asks of a Kubernetes cluster: that it answers, has the namespace, and gives each right that a deployment needs."""

import os
from collections.abc import Iterator
from typing import Any

from torchrelay.doctor import Check, Subject, bad, good
from torchrelay.kube_rules import RULES, Rule
from torchrelay.wording import printable

TIMEOUT_S = (5.0, 10.0)
MANIFEST = "infra/kubernetes/deployer-role.yaml"


def cluster(subject: Subject) -> Iterator[Check]:
    """Ask the cluster that the kubernetes target would deploy to."""
    if subject.target != "kubernetes":
        return
    options = subject.model.targets.kubernetes if subject.model else None
    namespace = getattr(options, "namespace", None) or "default"
    client, where = connect(getattr(options, "context", None), getattr(options, "cluster", None))
    from kubernetes.client import AuthorizationV1Api, CoreV1Api, VersionApi  # noqa: PLC0415 -- a second that only clusters need to pay
    from kubernetes.client.exceptions import ApiException  # noqa: PLC0415
    from urllib3.exceptions import HTTPError  # noqa: PLC0415

    with client:
        try:
            version = VersionApi(client).get_code(_request_timeout=TIMEOUT_S).git_version
            yield good("cluster", f"{where}: Kubernetes {version}")
        except ApiException as error:
            yield bad("cluster", f"{where}: answers {error.status} {error.reason}", _fix(error.status))
            return
        except HTTPError as error:
            yield bad("cluster", f"{where}: cannot be reached: {printable(str(error))}", "check the address and the network")
            return
        yield _namespace(CoreV1Api(client), namespace, ApiException)
        yield _rights(AuthorizationV1Api(client), namespace)


def connect(context: str | None, arn: str | None) -> tuple[Any, str]:
    """Return a client of the cluster, and how to call it in messages.

    Raises ClusterRefused when there is no way to it.
    """
    from kubernetes import config  # noqa: PLC0415 -- as in cluster

    from torchrelay.errors import ClusterRefused  # noqa: PLC0415

    if arn:
        from torchrelay import eks  # noqa: PLC0415 -- boto3

        return config.new_client_from_config_dict(eks.kubeconfig(arn)), arn  # type: ignore[attr-defined] # the stubs leave it out
    try:
        client: Any = config.new_client_from_config(context=context)
    except config.ConfigException as error:
        named = os.environ.get("KUBECONFIG") or "~/.kube/config"
        raise ClusterRefused(
            f"{named}: {printable(str(error))}",
            "set KUBECONFIG (the secret `kubeconfig` in a workflow), or `cluster` in model.yaml",
        ) from error
    return client, str(client.configuration.host)


def _namespace(core: Any, namespace: str, refused: type[Exception]) -> Check:
    try:
        core.read_namespace(namespace, _request_timeout=TIMEOUT_S)
    except refused as error:
        if getattr(error, "status", 0) == 404:
            return bad("namespace", f"there is no namespace {namespace}", f"`kubectl create namespace {namespace}`")
        return good("namespace", f"{namespace}: may not be looked at, which a deployment does not need")
    return good("namespace", namespace)


def _rights(authorization: Any, namespace: str) -> Check:
    """Ask the cluster about each verb; all that are missing are one finding, with the rules that grant them."""
    missing: list[Rule] = []
    for rule in RULES:
        verbs = tuple(verb for verb in rule.verbs if not _may(authorization, namespace, rule, verb))
        if verbs:
            missing.append(Rule(rule.group, rule.resource, verbs))
    count = sum(len(rule.verbs) for rule in RULES)
    if not missing:
        return good("rights", f"all {count} that a deployment uses in {namespace}")
    told = "; ".join(f"{rule.resource}: {', '.join(rule.verbs)}" for rule in missing)
    rules = "".join(
        f'\n    - {{apiGroups: ["{rule.group}"], resources: [{rule.resource}], verbs: [{", ".join(rule.verbs)}]}}'
        for rule in missing
    )
    return bad("rights", f"in {namespace} not allowed: {told}", f"apply {MANIFEST}, or add to the identity's role:{rules}")


def _may(authorization: Any, namespace: str, rule: Rule, verb: str) -> bool:
    resource, _, part = rule.resource.partition("/")
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {
            "resourceAttributes": {
                "namespace": namespace,
                "group": rule.group,
                "resource": resource,
                "subresource": part,
                "verb": verb,
            }
        },
    }
    return bool(authorization.create_self_subject_access_review(review, _request_timeout=TIMEOUT_S).status.allowed)


def _fix(status: int | None) -> str:
    if status == 401:
        return "the credentials are expired or unknown: log in again, or renew the secret `kubeconfig`"
    return "give the identity of the kubeconfig the right to use the API"
