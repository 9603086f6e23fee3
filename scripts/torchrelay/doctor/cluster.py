"""Doctor's checks of a Kubernetes cluster: it responds, has the namespace, and grants every right that a deployment needs."""

from collections.abc import Iterator
from typing import Any

from urllib3.exceptions import HTTPError

from torchrelay.core.text import printable
from torchrelay.doctor.finding import Finding, Subject, bad, good
from torchrelay.model.targets import Kubernetes
from torchrelay.targets.kubernetes.api import connect
from torchrelay.targets.kubernetes.permissions import RULES, Rule

TIMEOUT_S = (5.0, 10.0)
MANIFEST = "infra/kubernetes/deployer-role.yaml"


def cluster(subject: Subject) -> Iterator[Finding]:
    """Check the cluster that the kubernetes target would deploy to."""
    if subject.target != "kubernetes":
        return
    from kubernetes.client import ApiException, AuthorizationV1Api, CoreV1Api, VersionApi  # noqa: PLC0415 -- 0.6 s, clusters only

    settings = (subject.model.targets.kubernetes if subject.model else None) or Kubernetes()
    api = connect(settings)
    namespace, where = settings.namespace, api.server
    client: Any = api.client
    with client:
        try:
            version = VersionApi(client).get_code(_request_timeout=TIMEOUT_S).git_version
            yield good("cluster", f"{where}: Kubernetes {version}")
        except ApiException as error:
            yield bad("cluster", f"{where}: responds with {error.status} {error.reason}", _fix(error.status))
            return
        except HTTPError as error:
            yield bad("cluster", f"{where} is unreachable: {printable(str(error))}", "check the address and the network")
            return
        yield _namespace(CoreV1Api(client), namespace, ApiException)
        yield _rights(AuthorizationV1Api(client), namespace)


def _namespace(core: Any, namespace: str, refused: type[Exception]) -> Finding:
    try:
        core.read_namespace(namespace, _request_timeout=TIMEOUT_S)
    except refused as error:
        if getattr(error, "status", 0) == 404:
            return bad("namespace", f"there is no namespace {namespace}", f"`kubectl create namespace {namespace}`")
        return good("namespace", f"{namespace}: no right to read it (a deployment does not need that right)")
    return good("namespace", namespace)


def _rights(authorization: Any, namespace: str) -> Finding:
    """Ask the cluster about each verb; all missing ones are one finding, with the rules that grant them."""
    missing: list[Rule] = []
    for rule in RULES:
        verbs = tuple(verb for verb in rule.verbs if not _allowed(authorization, namespace, rule, verb))
        if verbs:
            missing.append(Rule(rule.group, rule.resource, verbs))
    count = sum(len(rule.verbs) for rule in RULES)
    if not missing:
        return good("rights", f"all {count} rights that a deployment needs in {namespace}")
    missing_text = "; ".join(f"{rule.resource}: {', '.join(rule.verbs)}" for rule in missing)
    rules = "".join(
        f'\n    - {{apiGroups: ["{rule.group}"], resources: [{rule.resource}], verbs: [{", ".join(rule.verbs)}]}}'
        for rule in missing
    )
    return bad("rights", f"not allowed in {namespace}: {missing_text}", f"apply {MANIFEST}, or add to the identity's role:{rules}")


def _allowed(authorization: Any, namespace: str, rule: Rule, verb: str) -> bool:
    resource, _, subresource = rule.resource.partition("/")
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {
            "resourceAttributes": {
                "namespace": namespace,
                "group": rule.group,
                "resource": resource,
                "subresource": subresource,
                "verb": verb,
            }
        },
    }
    return bool(authorization.create_self_subject_access_review(review, _request_timeout=TIMEOUT_S).status.allowed)


def _fix(status: int | None) -> str:
    if status == 401:
        return "the credentials have expired or are unknown: log in again, or renew the secret `kubeconfig`"
    return "give the identity in the kubeconfig the right to use the API"
