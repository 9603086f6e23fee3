"""What doctor asks of a Kubernetes cluster: that it answers, has the namespace, and gives each right that a deployment needs."""

from collections.abc import Iterator
from typing import Any

from torchrelay.core.text import printable
from torchrelay.doctor.finding import Check, Subject, bad, good
from torchrelay.model.model import Kubernetes
from torchrelay.targets.kubernetes.permissions import RULES, Rule

TIMEOUT_S = (5.0, 10.0)
MANIFEST = "infra/kubernetes/deployer-role.yaml"


def cluster(subject: Subject) -> Iterator[Check]:
    """Ask the cluster that the kubernetes target would deploy to."""
    if subject.target != "kubernetes":
        return
    from kubernetes.client import AuthorizationV1Api, CoreV1Api, VersionApi  # noqa: PLC0415 -- a second that only clusters need to pay
    from kubernetes.client.exceptions import ApiException  # noqa: PLC0415
    from urllib3.exceptions import HTTPError  # noqa: PLC0415

    from torchrelay.targets.kubernetes import api as kube_api  # noqa: PLC0415

    settings = (subject.model.targets.kubernetes if subject.model else None) or Kubernetes()
    api = kube_api.connect(settings)
    namespace, where = settings.namespace, api.server
    client: Any = api.client
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
