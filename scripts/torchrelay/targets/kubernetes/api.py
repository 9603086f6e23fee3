"""The cluster's API as a few verbs over plain documents; every refusal is raised as an error that contains its fix."""

import logging
import math
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml
from kubernetes import client, config
from kubernetes.client import ApiClient, ApiException, Configuration, CoreV1Api
from urllib3.exceptions import HTTPError

from torchrelay.core.errors import ClusterRefused, TorchrelayError
from torchrelay.core.json_text import parse_untrusted
from torchrelay.core.retry import Policy, RetryLater, retry_after_s, retrying
from torchrelay.model.targets import Kubernetes
from torchrelay.targets.kubernetes.api_errors import first_line, is_transient, refusal, status_code
from torchrelay.targets.kubernetes.exec import exec_in
from torchrelay.targets.kubernetes.manifests import CONTAINER, MANAGER, Document
from torchrelay.targets.kubernetes.settings import KubernetesSettings

log = logging.getLogger(__name__)
APPLY = "application/apply-patch+yaml"
TIMEOUTS_S = (10.0, 60.0)  # to connect, to answer
QUICK_S = (3.0, 3.0)
NEITHER = "TORCHRELAY_KUBECONFIG is neither a kubeconfig nor the path of a file"
NEITHER_FIX = "set it to a kubeconfig's path, or to its whole content"
RETRY = Policy(attempts=12, first_wait_s=0.25, longest_wait_s=4.0)
RETRY_S = 20.0
"""Seconds after which a call that failed is not repeated any more."""
LOG_RETRY = Policy(attempts=2, first_wait_s=0.0)
NOT_FOUND, CONFLICT, UNAUTHORIZED, FORBIDDEN = 404, 409, 401, 403
ERRORS = (ApiException, HTTPError, OSError)
RAW: dict[str, Any] = {"_preload_content": False}  # documents as they arrive, not the client's types
EKS_LASTS_S = 14 * 60.0
"""Seconds after which to create a new EKS token: a minute before the cluster refuses it, as the aws CLI does."""

# kind -> class of the client and stem of its methods
KINDS = {
    "Deployment": ("AppsV1Api", "namespaced_deployment"),
    "ReplicaSet": ("AppsV1Api", "namespaced_replica_set"),
    "Pod": ("CoreV1Api", "namespaced_pod"),
    "Service": ("CoreV1Api", "namespaced_service"),
    "ServiceAccount": ("CoreV1Api", "namespaced_service_account"),
    "PodDisruptionBudget": ("PolicyV1Api", "namespaced_pod_disruption_budget"),
    "NetworkPolicy": ("NetworkingV1Api", "namespaced_network_policy"),
    "Lease": ("CoordinationV1Api", "namespaced_lease"),
}


class Api:
    """One namespace of one cluster. `new_client` returns a client, and is called again when its credentials have expired.

    `lasts_s`: seconds for which credentials are valid.
    """

    def __init__(self, new_client: Callable[[], ApiClient], namespace: str, lasts_s: float = math.inf) -> None:
        self.new_client = new_client
        self.namespace = namespace
        self.lasts_s = lasts_s
        self.renew()

    def renew(self) -> None:
        """Create a client with new credentials."""
        created_at = time.monotonic()
        self._client, self._created_at = self.new_client(), created_at

    @property
    def client(self) -> ApiClient:
        """A client whose credentials have not expired, as far as that is known."""
        if time.monotonic() - self._created_at > self.lasts_s:
            self.renew()
        return self._client

    @property
    def server(self) -> str:
        """Address of the API."""
        return str(self.configuration.host)

    @property
    def configuration(self) -> Configuration:
        """Address and credentials."""
        configuration: Configuration = self.client.configuration  # type: ignore[attr-defined] # the stubs leave it out
        return configuration

    def get(self, kind: str, name: str, *, quick: bool = False) -> Document | None:
        """Return an object, None when it is missing; `quick`: try once, for a few seconds."""
        return self._call("read", kind, name, missing=True, quick=quick)

    def list(self, kind: str, selector: str = "", fields: str = "") -> list[Document]:
        """Return the objects of a kind that match a label selector and a field selector."""
        listed = self._call("list", kind, "", label_selector=selector, field_selector=fields) or {}
        return list(listed.get("items") or [])

    def apply(self, document: Document, *, dry_run: bool = False, force: bool = False) -> Document:
        """Apply a manifest, as field manager torchrelay; refused if others own its fields, unless forced."""
        options: dict[str, Any] = {"dry_run": "All"} if dry_run else {}
        name = document["metadata"]["name"]
        applied = self._call(
            "patch",
            document["kind"],
            name,
            body=document,
            field_manager=MANAGER,
            field_validation="Strict",
            force=force,
            _content_type=APPLY,
            **options,
        )
        return applied or {}

    def create(self, document: Document) -> Document | None:
        """Create an object; return None when one of that name exists."""
        return self._call("create", document["kind"], "", body=document, field_manager=MANAGER, conflict=True)

    def replace(self, document: Document, *, quick: bool = False) -> Document | None:
        """Replace an object; return None when its `resourceVersion` is no longer that of the document, or it is gone."""
        name = document["metadata"]["name"]
        return self._call("replace", document["kind"], name, body=document, missing=True, conflict=True, quick=quick)

    def delete(self, kind: str, name: str, *, grace_s: int | None = None, of_version: str = "") -> bool:
        """Delete an object and its dependents; return whether it existed.

        `of_version`: only while it has this resourceVersion.
        """
        body: Document = {"propagationPolicy": "Background"}
        if grace_s is not None:
            body["gracePeriodSeconds"] = grace_s
        if of_version:
            body["preconditions"] = {"resourceVersion": of_version}
        return self._call("delete", kind, name, body=body, missing=True, conflict=True) is not None

    def execute(self, pod: str, command: Sequence[str], stdin: bytes, timeout_s: float) -> tuple[int, bytes, bytes]:
        """Run a command in a pod's server container and return (exit code, stdout, stderr).

        Raises GateFailed, ClusterRefused: see `exec.exec_in`.
        """
        return exec_in(self, pod, command, stdin, timeout_s)

    def log(self, pod: str, lines: int | None = None, *, previous: bool = False) -> str:
        """Return the end of the server's log in a pod, "" when there is none (yet); `previous`: from before the last restart.

        Raises ClusterRefused when reading it is forbidden.
        """
        options: dict[str, Any] = {} if lines is None else {"tail_lines": lines}

        def read() -> str:
            try:
                reply: Any = CoreV1Api(self.client).read_namespaced_pod_log(
                    pod, self.namespace, container=CONTAINER, previous=previous, _request_timeout=TIMEOUTS_S, **options, **RAW
                )
                return bytes(reply.data).decode(errors="replace")
            except ERRORS as error:
                status = status_code(error)
                if status == FORBIDDEN and (refused := refusal(error, "Pod", pod, self.namespace, self.server)):
                    raise refused from error
                if status in (0, UNAUTHORIZED):  # 0: the server closed a kept connection
                    raise RetryLater(first_line(error), 0.0) from error
                return ""

        try:
            return retrying(read, LOG_RETRY, before_wait=self._renew_if_unauthorized)
        except RetryLater:
            return ""

    def log_or_reason(self, pod: str, lines: int | None = None, *, previous: bool = False) -> str:
        """Return what `log` does, or the reason why it cannot be read: for messages about another failure."""
        try:
            return self.log(pod, lines, previous=previous)
        except TorchrelayError as refused:
            return f"its log cannot be read: {refused.message}\n{refused.fix}"

    def _call(
        self,
        verb: str,
        kind: str,
        name: str,
        *,
        missing: bool = False,
        conflict: bool = False,
        quick: bool = False,
        **arguments: Any,
    ) -> Document | None:
        """Call the client's method of a verb and a kind; a transient failure is retried for `RETRY_S` seconds."""
        deadline, unauthorized = time.monotonic() + (0 if quick else RETRY_S), False
        timeouts_s = QUICK_S if quick else TIMEOUTS_S

        def attempt() -> Document | None:
            nonlocal unauthorized
            try:
                reply = self._method(verb, kind)(
                    *([name] if name else []), self.namespace, **arguments, _request_timeout=timeouts_s, **RAW
                )
                return dict(parse_untrusted(reply.data))
            except ERRORS as error:
                status = status_code(error)
                refused = refusal(error, kind, name, self.namespace, self.server)
                if missing and status == NOT_FOUND and refused is None:
                    return None
                if conflict and status == CONFLICT:
                    return None
                if status == UNAUTHORIZED and not unauthorized:
                    unauthorized = True
                    raise RetryLater(first_line(error), 0.0) from error
                if is_transient(error) and time.monotonic() < deadline:
                    asked = (getattr(error, "headers", None) or {}).get("Retry-After")
                    raise RetryLater(first_line(error), retry_after_s(asked)) from error
                raise refused or ClusterRefused(f"{kind} {name}: {first_line(error)}") from error

        def before_wait(failure: RetryLater, wait_s: float) -> None:
            log.debug("%s %s %s: %s; again in %.2f s", verb, kind, name, failure.reason, wait_s)
            self._renew_if_unauthorized(failure, wait_s)

        try:
            return retrying(attempt, RETRY, before_wait=before_wait)
        except RetryLater as last:
            raise ClusterRefused(f"{kind} {name}: {last.reason}", "run it again") from last

    def _renew_if_unauthorized(self, failure: RetryLater, _wait_s: float) -> None:
        if status_code(failure.__cause__) == UNAUTHORIZED:
            self.renew()

    def _method(self, verb: str, kind: str) -> Callable[..., Any]:
        group, stem = KINDS[kind]
        method: Callable[..., Any] = getattr(getattr(client, group)(self.client), f"{verb}_{stem}")
        return method


def connect(settings: Kubernetes) -> Api:
    """Return the API of the cluster that model.yaml names, by EKS or by a kubeconfig; inside a pod, of that pod's cluster.

    The kubeconfig is TORCHRELAY_KUBECONFIG (a path, or the text itself), otherwise KUBECONFIG, otherwise ~/.kube/config. Raises
    ClusterRefused, InputsInvalid.
    """
    return Api(lambda: new_client(settings), settings.namespace, EKS_LASTS_S if settings.cluster else math.inf)


def new_client(settings: Kubernetes) -> ApiClient:
    """Return a client with the credentials that `connect` describes. Raises ClusterRefused."""
    kubeconfig = KubernetesSettings.read().kubeconfig.get_secret_value()
    paths = os.environ.get("KUBECONFIG") or str(Path.home() / ".kube" / "config")
    configuration = Configuration()
    configuration.retries = 0  # `Api` retries itself, within its own time limit
    target: dict[str, Any] = {"client_configuration": configuration, "persist_config": False}
    try:
        if settings.cluster:
            from torchrelay.targets.kubernetes import eks  # noqa: PLC0415 -- botocore takes 0.3 s, and only EKS needs it

            config.load_kube_config_from_dict(eks.kubeconfig(settings.cluster), **target)
        elif "\n" in kubeconfig or kubeconfig.startswith("{"):
            config.load_kube_config_from_dict(_parsed(kubeconfig), settings.context, **target)
        elif kubeconfig and not os.path.isfile(kubeconfig):  # noqa: PTH113 -- false for a text that is too long for a path
            raise ClusterRefused(NEITHER, NEITHER_FIX)  # the text may be a credential in another encoding: it is not shown
        elif kubeconfig or any(Path(path).is_file() for path in paths.split(os.pathsep)):
            config.load_kube_config(kubeconfig or paths, settings.context, **target)
        elif os.environ.get("KUBERNETES_SERVICE_HOST"):
            config.load_incluster_config(client_configuration=configuration)
        else:
            raise ClusterRefused(
                "there is no kubeconfig: neither KUBECONFIG nor ~/.kube/config names a file",
                "set KUBECONFIG, or name an EKS cluster in model.yaml: `targets: {kubernetes: {cluster: arn:aws:eks:...}}`",
            )
    except (config.ConfigException, OSError, TypeError, KeyError, ValueError, yaml.YAMLError) as error:
        raise ClusterRefused(
            f"the kubeconfig cannot be used: {first_line(error)}", "try it: `kubectl get namespaces`; then compare its contexts"
        ) from error
    return ApiClient(configuration)


def _parsed(text: str) -> Document:
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError:
        document = None
    if not isinstance(document, dict):
        raise ClusterRefused(NEITHER, NEITHER_FIX)
    return document
