"""The cluster's API as a few verbs over plain documents; every refusal comes out as an error that says what mends it."""

import json
import logging
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchrelay.core.errors import ClusterRefused, TorchrelayError
from torchrelay.model.model import Kubernetes
from torchrelay.targets.kubernetes.api_errors import first_line, is_transient, refusal
from torchrelay.targets.kubernetes.manifests import MANAGER, Document

if TYPE_CHECKING:
    from kubernetes.client import ApiClient, Configuration

log = logging.getLogger(__name__)
APPLY = "application/apply-patch+yaml"
TIMEOUTS_S = (10.0, 60.0)  # to connect, to answer
RETRY_S = 20.0
QUICK_S = (3.0, 3.0)
NOT_FOUND, CONFLICT, UNAUTHORIZED, FORBIDDEN = 404, 409, 401, 403

# kind -> class of the client and stem of its methods
KINDS = {
    "Deployment": ("AppsV1Api", "namespaced_deployment"),
    "ReplicaSet": ("AppsV1Api", "namespaced_replica_set"),
    "Pod": ("CoreV1Api", "namespaced_pod"),
    "Service": ("CoreV1Api", "namespaced_service"),
    "ServiceAccount": ("CoreV1Api", "namespaced_service_account"),
    "PodDisruptionBudget": ("PolicyV1Api", "namespaced_pod_disruption_budget"),
    "Lease": ("CoordinationV1Api", "namespaced_lease"),
}


class Api:
    """One namespace of one cluster. `make` gives a client, and is asked again when its credentials have expired.

    `lasts_s`: seconds after which they are known to have.
    """

    def __init__(self, make: Callable[[], "ApiClient"], namespace: str, lasts_s: float = math.inf) -> None:
        self.make = make
        self.namespace = namespace
        self.lasts_s = lasts_s
        self.renew()

    def renew(self) -> None:
        """Make a client with new credentials."""
        made_at = time.monotonic()
        self._client, self._made_at = self.make(), made_at

    @property
    def client(self) -> "ApiClient":
        """A client whose credentials have not expired, as far as that is known."""
        if time.monotonic() - self._made_at > self.lasts_s:
            self.renew()
        return self._client

    @property
    def server(self) -> str:
        """Address of the API."""
        return str(self.configuration.host)

    @property
    def configuration(self) -> "Configuration":
        """Address and credentials."""
        made: Configuration = self.client.configuration  # type: ignore[attr-defined] # the stubs leave it out
        return made

    def get(self, kind: str, name: str, *, quick: bool = False) -> Document | None:
        """Return an object, None when there is none; `quick`: ask once, for seconds."""
        return self._call("read", kind, name, missing=True, quick=quick)

    def list(self, kind: str, selector: str = "", fields: str = "") -> list[Document]:
        """Return the objects of a kind that a label selector and a field selector name."""
        found = self._call("list", kind, "", label_selector=selector, field_selector=fields) or {}
        return list(found.get("items") or [])

    def apply(self, document: Document, *, dry_run: bool = False, force: bool = False) -> Document:
        """Apply a manifest, as field manager torchrelay; fields that others own are a refusal unless forced."""
        more: dict[str, Any] = {"dry_run": "All"} if dry_run else {}
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
            **more,
        )
        return applied or {}

    def create(self, document: Document) -> Document | None:
        """Create an object; None when one of that name is there."""
        return self._call("create", document["kind"], "", body=document, field_manager=MANAGER, conflict=True)

    def replace(self, document: Document, *, quick: bool = False) -> Document | None:
        """Replace an object; None when it is no longer of the `resourceVersion` that the document names, or gone."""
        name = document["metadata"]["name"]
        return self._call("replace", document["kind"], name, body=document, missing=True, conflict=True, quick=quick)

    def delete(self, kind: str, name: str, *, grace_s: int | None = None, of_version: str = "") -> bool:
        """Delete an object and what hangs on it; says whether it was there.

        `of_version`: only while it has this resourceVersion.
        """
        body: Document = {"propagationPolicy": "Background"}
        if grace_s is not None:
            body["gracePeriodSeconds"] = grace_s
        if of_version:
            body["preconditions"] = {"resourceVersion": of_version}
        return self._call("delete", kind, name, body=body, missing=True, conflict=True) is not None

    def log(self, pod: str, container: str, lines: int | None = None, *, previous: bool = False) -> str:
        """Return the end of a container's log, "" when it has none (yet); `previous`: of its run before the last restart.

        Raises ClusterRefused when it may not be read.
        """
        from kubernetes.client import ApiException, CoreV1Api  # noqa: PLC0415 -- half a second, which only this target pays
        from urllib3.exceptions import HTTPError  # noqa: PLC0415

        more: dict[str, Any] = {} if lines is None else {"tail_lines": lines}
        for again in (True, False):
            try:
                answer: Any = CoreV1Api(self.client).read_namespaced_pod_log(
                    pod, self.namespace, container=container, previous=previous, _request_timeout=TIMEOUTS_S, **more, **RAW
                )
                return bytes(answer.data).decode(errors="replace")
            except (ApiException, HTTPError, OSError) as error:
                status = int(getattr(error, "status", 0) or 0)
                if status == FORBIDDEN and (refused := refusal(error, "Pod", pod, self.namespace, self.server)):
                    raise refused from error
                if not again or status not in (0, UNAUTHORIZED):  # 0: a connection that was kept, and closed by the server
                    break
                if status == UNAUTHORIZED:
                    self.renew()
        return ""

    def log_or_why(self, pod: str, container: str, lines: int | None = None, *, previous: bool = False) -> str:
        """Return what `log` does, or why it may not be read: for a failure that is told in any case."""
        try:
            return self.log(pod, container, lines, previous=previous)
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
        """Call the client's method of a verb and a kind; what is transient is tried again for a while."""
        from kubernetes.client import ApiException  # noqa: PLC0415 -- as in log
        from urllib3.exceptions import HTTPError  # noqa: PLC0415

        deadline, pause, renewed = time.monotonic() + (0 if quick else RETRY_S), 0.25, False
        timeouts_s = QUICK_S if quick else TIMEOUTS_S
        while True:
            try:
                answer = self._method(verb, kind)(
                    *([name] if name else []), self.namespace, **arguments, _request_timeout=timeouts_s, **RAW
                )
                return dict(json.loads(answer.data))
            except (ApiException, HTTPError, OSError) as error:
                status = int(getattr(error, "status", 0) or 0)
                refused = refusal(error, kind, name, self.namespace, self.server)
                if missing and status == NOT_FOUND and refused is None:
                    return None
                if conflict and status == CONFLICT:
                    return None
                if status == UNAUTHORIZED and not renewed:
                    self.renew()
                    renewed = True
                    continue
                if is_transient(error) and time.monotonic() < deadline:
                    log.debug("%s %s %s: %s; again in %.2f s", verb, kind, name, first_line(error), pause)
                    time.sleep(pause)
                    pause = min(2 * pause, 4.0)
                    continue
                raise refused or ClusterRefused(f"{kind} {name}: {first_line(error)}") from error

    def _method(self, verb: str, kind: str) -> Callable[..., Any]:
        from kubernetes import client  # noqa: PLC0415 -- as in log

        group, stem = KINDS[kind]
        method: Callable[..., Any] = getattr(getattr(client, group)(self.client), f"{verb}_{stem}")
        return method


RAW: dict[str, Any] = {"_preload_content": False}  # documents as they came, not the client's types


def connect(settings: Kubernetes) -> Api:
    """Return the API of the cluster that model.yaml names, by EKS or by a kubeconfig; inside of a pod, of its own cluster.

    A kubeconfig is TORCHRELAY_KUBECONFIG (a path, or the text itself), else KUBECONFIG, else ~/.kube/config. Raises ClusterRefused.
    """
    return Api(lambda: _client(settings), settings.namespace, _lasts_s(settings))


def _lasts_s(settings: Kubernetes) -> float:
    if not settings.cluster:
        return math.inf
    from torchrelay.targets.kubernetes import eks  # noqa: PLC0415 -- as in _client

    return float(eks.LASTS_S)


def _client(settings: Kubernetes) -> "ApiClient":
    from kubernetes import client, config  # noqa: PLC0415 -- as in Api.log

    given = os.environ.get("TORCHRELAY_KUBECONFIG") or ""
    named = os.environ.get("KUBECONFIG") or str(Path.home() / ".kube" / "config")
    made = client.Configuration()
    made.retries = 0  # `_call` tries again, and knows for how long
    try:
        if settings.cluster:
            from torchrelay.targets.kubernetes import eks  # noqa: PLC0415 -- boto3 is slow to import, and needed for EKS alone

            config.load_kube_config_from_dict(eks.kubeconfig(settings.cluster), client_configuration=made, persist_config=False)
        elif "\n" in given or given.startswith("{"):
            document = _parsed(given)
            config.load_kube_config_from_dict(document, settings.context, client_configuration=made, persist_config=False)
        elif given or any(Path(one).is_file() for one in named.split(os.pathsep)):
            config.load_kube_config(given or named, settings.context, client_configuration=made, persist_config=False)
        elif os.environ.get("KUBERNETES_SERVICE_HOST"):
            config.load_incluster_config(client_configuration=made)
        else:
            raise ClusterRefused(
                "there is no kubeconfig: neither KUBECONFIG nor ~/.kube/config names a file",
                "set KUBECONFIG, or name an EKS cluster in model.yaml: `targets: {kubernetes: {cluster: arn:aws:eks:...}}`",
            )
    except (config.ConfigException, OSError, TypeError, KeyError) as error:
        raise ClusterRefused(
            f"the kubeconfig cannot be used: {first_line(error)}", "try it: `kubectl get namespaces`; then compare its contexts"
        ) from error
    return client.ApiClient(made)


def _parsed(text: str) -> Document:
    import yaml  # noqa: PLC0415 -- only for a kubeconfig given as text

    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError:
        found = None
    if not isinstance(found, dict):
        raise ClusterRefused("TORCHRELAY_KUBECONFIG is neither a path nor a kubeconfig", "put the file's content into it, whole")
    return found
