"""Creates a model's manifests: an overlay over k8s/base, rendered by kustomize, and the candidate pod that is verified first."""

import copy
import json
import math
import os
import re
import secrets
import shutil
import tempfile
from decimal import Decimal
from pathlib import Path
from typing import Any

import yaml

from torchrelay.core import paths, shell
from torchrelay.core.errors import DeployFailed
from torchrelay.model.model import Model
from torchrelay.model.targets import Kubernetes
from torchrelay.targets.contract import Release
from torchrelay.verification.ready import START_MARGIN_S

BASE = paths.KUBERNETES_BASE
BASE_NAME = "model"
BASE_IMAGE = "torchrelay/model"
CONTAINER = "server"
GPU = "nvidia.com/gpu"
PORT = 80
NAME_LABEL = "app.kubernetes.io/name"
COMPONENT_LABEL = "app.kubernetes.io/component"
VERSION_LABEL = "app.kubernetes.io/version"
MANAGED_LABEL = "app.kubernetes.io/managed-by"
MANAGER = "torchrelay"
EGRESS_LABEL, PUBLIC = "torchrelay.org/egress", "public"
EGRESS_NAME = "model-egress"
SERVER, CANDIDATE = "server", "candidate"
PROPAGATION_S = 5
"""Seconds until every proxy knows that a pod is gone; the drain program waits as long before it counts requests in flight."""
STOP_S = 10
"""Seconds for the server to end, once no request is in flight."""
PROBE_S = 2
PLACE_S = 600
"""Seconds for a pod to get a node, perhaps a new one, and for the node to pull gigabytes."""
TEMPORARY = 1 << 30
"""Bytes of a pod's /tmp for temporary files; as many as its memory come on top, of which bodies take a tenth at most."""
RENDER_S = 60
NO_KUSTOMIZE = "install kubectl (https://kubernetes.io/docs/tasks/tools/) or kustomize"

Document = dict[str, Any]


def settings_of(model: Model) -> Kubernetes:
    """Return the target's part of model.yaml, or the defaults."""
    return model.targets.kubernetes or Kubernetes()


def selector(name: str, component: str = SERVER) -> str:
    """Return the label selector of a model's pods."""
    return f"{NAME_LABEL}={name},{COMPONENT_LABEL}={component}"


def label_value(text: str) -> str:
    """Return a text as a valid label: at most 63 letters, digits, `-`, `_` and `.`, with a letter or digit at both ends."""
    return re.sub(r"[^A-Za-z0-9_.-]", "-", text)[:63].strip("-_.") or "unknown"


def cpu_quantity(cores: float) -> str:
    """Return cores as Kubernetes writes them: `2`, `500m`; at least a thousandth."""
    milli = max(1, int((Decimal(str(cores)) * 1000).to_integral_value()))
    return str(milli // 1000) if milli % 1000 == 0 else f"{milli}m"


def grace_s(model: Model) -> int:
    """Return how many seconds a pod may take to end: proxies learn of it, requests in flight end, then the server."""
    return PROPAGATION_S + model.timeouts.drain_s + STOP_S


def startup_s(model: Model) -> int:
    """Return how many seconds a started container may take until a worker has answered."""
    return model.timeouts.startup_s + START_MARGIN_S


def deployment_patch(model: Model) -> Document:
    """Return the Deployment's fields that model.yaml sets."""
    amounts = {"cpu": cpu_quantity(model.resources.cpu), "memory": model.resources.memory}
    if model.gpus:
        amounts[GPU] = str(model.gpus)
    container = {
        "name": CONTAINER,
        "env": [{"name": "TORCHRELAY_PROPAGATION_S", "value": str(PROPAGATION_S)}],
        "resources": {"requests": amounts, "limits": amounts},
        "startupProbe": {"periodSeconds": PROBE_S, "failureThreshold": math.ceil(startup_s(model) / PROBE_S)},
    }
    pod: Document = {
        "terminationGracePeriodSeconds": grace_s(model),
        "containers": [container],
        "volumes": [{"name": "tmp", "emptyDir": {"sizeLimit": str(TEMPORARY + model.memory_bytes)}}],
    }
    if model.gpus:  # nodes with GPUs are often tainted, to keep other pods away
        pod["tolerations"] = [{"key": GPU, "operator": "Exists", "effect": "NoSchedule"}]
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": BASE_NAME},
        "spec": {
            "replicas": settings_of(model).replicas,
            "progressDeadlineSeconds": startup_s(model) + PLACE_S,
            "template": {**({"metadata": {"labels": {EGRESS_LABEL: PUBLIC}}} if fetches_urls(model) else {}), "spec": pod},
        },
    }


def fetches_urls(model: Model) -> bool:
    """Return whether the handler fetches pictures from other hosts; every other model is cut off from the network."""
    return bool(model.handler_args.get("url_hosts"))


def egress_ports(model: Model) -> list[Document]:
    """Return the ports that pods which fetch URLs may connect to: those of the web, and those that `url_hosts` names."""
    named = {int(host.rpartition(":")[2]) for host in model.handler_args.get("url_hosts") or () if host.rpartition(":")[1]}
    return [{"port": port, "protocol": "TCP"} for port in sorted({80, 443} | named)]


def overlay(model: Model, release: Release, base: str) -> dict[str, Document]:
    """Return the overlay, file name -> document; `base` is the path of k8s/base relative to it.

    Raises DeployFailed for a name that a Service cannot have, and for a release that is not in a registry.
    """
    repository, separator, digest = release.reference.partition("@")
    if not separator:
        raise DeployFailed(
            "a cluster pulls the image from a registry, and this one has not been pushed",
            "push it first: --repository HOST/PATH, or `torchrelay push`",
        )
    if model.name[0].isdigit():
        raise DeployFailed(f'Service names must start with a letter; "{model.name}" does not', "choose another name in model.yaml")
    rename = {"op": "replace", "path": "/metadata/name", "value": model.name}
    egress = [
        {**rename, "value": egress_name(model.name)},
        {"op": "replace", "path": "/spec/egress/1/ports", "value": egress_ports(model)},
    ]
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": settings_of(model).namespace,
        "resources": [base],
        "images": [{"name": BASE_IMAGE, "newName": repository, "digest": digest}],
        "labels": [
            {"pairs": {NAME_LABEL: model.name}, "includeSelectors": True},
            {"pairs": {VERSION_LABEL: label_value(release.version)}, "includeTemplates": True},
        ],
        "patches": [
            {"path": "deployment.yaml"},
            {"target": {"name": BASE_NAME}, "options": {"allowNameChange": True}, "patch": json.dumps([rename])},
            {"target": {"name": EGRESS_NAME}, "options": {"allowNameChange": True}, "patch": json.dumps(egress)},
        ],
    }
    return {"kustomization.yaml": kustomization, "deployment.yaml": deployment_patch(model)}


def egress_name(name: str) -> str:
    """Return the name of the NetworkPolicy for the pods of a model that fetch URLs."""
    return f"{name}-egress"


def kustomize_command(folder: Path) -> list[str]:
    """Return the command that renders an overlay: kustomize if it is installed, otherwise kubectl's own.

    Raises DeployFailed when neither is installed.
    """
    if shutil.which("kustomize"):
        return ["kustomize", "build", str(folder)]
    if shutil.which("kubectl"):
        return ["kubectl", "kustomize", str(folder)]
    raise DeployFailed("neither kustomize nor kubectl is on the PATH; they render the manifests", NO_KUSTOMIZE)


def render(model: Model, release: Release) -> list[Document]:
    """Render the manifests of a release: a ServiceAccount, a Service, NetworkPolicies, a Deployment and a PodDisruptionBudget.

    Raises DeployFailed.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary).resolve()  # kustomize needs relative paths between real folders
        for name, document in overlay(model, release, os.path.relpath(BASE.resolve(), folder)).items():
            (folder / name).write_text(yaml.safe_dump(document), encoding="utf-8")
        try:
            rendered = shell.run(kustomize_command(folder), timeout=RENDER_S).stdout
        except shell.CommandFailed as error:
            raise DeployFailed(f"kustomize could not render the manifests: {error}", NO_KUSTOMIZE) from error
    documents = [document for document in yaml.safe_load_all(rendered) if document]
    for policy in all_of_kind(documents, "NetworkPolicy"):  # candidates too: only their component is another
        policy["spec"]["podSelector"]["matchLabels"].pop(COMPONENT_LABEL, None)
    return documents


def all_of_kind(documents: list[Document], kind: str) -> list[Document]:
    """Return the documents of a kind."""
    return [document for document in documents if document["kind"] == kind]


def of_kind(documents: list[Document], kind: str) -> Document:
    """Return the one document of a kind."""
    (document,) = all_of_kind(documents, kind)
    return document


def candidate(deployment: Document, lasts_s: int) -> Document:
    """Return the candidate pod: like those of the Deployment, but no Service selects it and it never restarts.

    `lasts_s`: seconds after which the cluster ends it, in case the process that created it is killed.
    """
    template = copy.deepcopy(deployment["spec"]["template"])
    name = deployment["metadata"]["name"]
    labels = {**template["metadata"]["labels"], COMPONENT_LABEL: CANDIDATE}
    for container in template["spec"]["containers"]:
        container.pop("lifecycle", None)  # no request is in flight when it ends
    spec = {**template["spec"], "restartPolicy": "Never", "activeDeadlineSeconds": lasts_s, "terminationGracePeriodSeconds": 1}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": f"{name}-candidate-{secrets.token_hex(3)}",
            "namespace": deployment["metadata"]["namespace"],
            "labels": labels,
            "annotations": template["metadata"].get("annotations", {}),
        },
        "spec": spec,
    }
