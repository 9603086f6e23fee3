"""A model's objects in a cluster: applies and removes those that Torchrelay created, and leaves all others unchanged."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from torchrelay.core.errors import DeployFailed
from torchrelay.targets.kubernetes import state
from torchrelay.targets.kubernetes.api import Api
from torchrelay.targets.kubernetes.manifests import (
    MANAGED_LABEL,
    MANAGER,
    Document,
    all_of_kind,
    egress_name,
    of_kind,
)
from torchrelay.targets.kubernetes.settings import KubernetesSettings
from torchrelay.targets.kubernetes.state import DeployedVersion, Live
from torchrelay.targets.kubernetes.waiting import is_complete

MANAGED_KINDS = ("Deployment", "Service", "PodDisruptionBudget", "NetworkPolicy", "ServiceAccount")


@dataclass(frozen=True)
class RenderedRelease:
    """A release's manifests, and the version that they serve."""

    documents: list[Document]
    version: DeployedVersion

    @property
    def deployment(self) -> Document:
        """The Deployment as rendered."""
        return of_kind(self.documents, "Deployment")


def is_managed(document: Document) -> bool:
    """Return whether Torchrelay created an object."""
    return bool((document["metadata"].get("labels") or {}).get(MANAGED_LABEL) == MANAGER)


def is_forced() -> bool:
    """Return whether this run overwrites fields that others own."""
    return KubernetesSettings.read().force_conflicts


def applicable(api: Api, wanted: RenderedRelease, *kinds: str) -> Iterator[Document]:
    """Yield the manifests of some kinds; a ServiceAccount that somebody else created, to give it permissions, is left out.

    Raises DeployFailed for any other object of that name that Torchrelay did not create.
    """
    for document in (one for kind in kinds for one in all_of_kind(wanted.documents, kind)):
        kind, name, namespace = document["kind"], document["metadata"]["name"], document["metadata"]["namespace"]
        existing = api.get(kind, name)
        if existing is None or is_managed(existing):
            yield document
        elif kind != "ServiceAccount":
            raise DeployFailed(
                f"{kind} {namespace}/{name} exists already, but Torchrelay did not create it",
                "choose another name or namespace in model.yaml, or delete it",
            )


def apply_kinds(api: Api, wanted: RenderedRelease, *kinds: str, dry_run: bool = False) -> None:
    """Apply the manifests of some kinds; in a dry run the API only checks them.

    Raises DeployFailed, ClusterRefused.
    """
    for document in list(applicable(api, wanted, *kinds)):
        api.apply(document, dry_run=dry_run, force=is_forced())


def apply_version(
    api: Api, rendered: Document, version: DeployedVersion, *, verified: bool, previous: DeployedVersion | None, force: bool = True
) -> None:
    """Apply the Deployment that serves a version, with the name and labels of the rendered or live one.

    A number of pods that an autoscaler has set is kept.
    """
    if state.is_scaled_by_cluster(api.get("Deployment", rendered["metadata"]["name"])):
        version = replace(version, spec=state.without_replicas(version.spec))
    metadata = {key: rendered["metadata"][key] for key in ("name", "namespace", "labels")}
    api.apply(state.deployment({"metadata": metadata}, version, verified=verified, previous=previous), force=force)


def remove_managed(api: Api, name: str) -> bool:
    """Remove the applied objects; return whether there were any."""
    removed = False
    for kind, called in (*((kind, name) for kind in MANAGED_KINDS), ("NetworkPolicy", egress_name(name))):
        document = api.get(kind, called)
        if document is not None and is_managed(document):
            removed = api.delete(kind, called) or removed
    return removed


def remove_first(api: Api, name: str, applied: DeployedVersion | None) -> bool:
    """Remove the objects of a first version that failed; return whether there were any.

    `applied`: the version that this run applied, if any. Another version under that name stays: another run deployed it.
    """
    try:
        live = state.read(api.get("Deployment", name))
    except DeployFailed:
        return False
    if live is not None and (applied is None or not live.version.serves(applied)):
        return False
    return remove_managed(api, name)


def is_unchanged(api: Api, live: Live, wanted: RenderedRelease) -> bool:
    """Return whether applying a release would change nothing; the API compares, because somebody may have edited the objects."""
    if not (live.verified and live.version.serves(wanted.version) and is_complete(live.document)):
        return False
    document = state.deployment(wanted.deployment, wanted.version, verified=True, previous=live.previous)
    applied = api.apply(document, dry_run=True, force=True)
    return bool(applied["spec"] == live.document["spec"])
