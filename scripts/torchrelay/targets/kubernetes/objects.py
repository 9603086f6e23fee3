"""The objects of a model in a cluster: which of them are ours, what is applied and what is removed; what others made stays."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace

from torchrelay.core.errors import DeployFailed
from torchrelay.targets.kubernetes import state
from torchrelay.targets.kubernetes.api import Api
from torchrelay.targets.kubernetes.api_errors import FORCE
from torchrelay.targets.kubernetes.manifests import MANAGED_LABEL, MANAGER, Document, of_kind
from torchrelay.targets.kubernetes.state import Version

OURS = ("Deployment", "Service", "PodDisruptionBudget", "ServiceAccount")


@dataclass(frozen=True)
class Wanted:
    """What a release amounts to: its manifests, and the version that they serve."""

    documents: list[Document]
    version: Version

    @property
    def deployment(self) -> Document:
        """The Deployment as rendered."""
        return of_kind(self.documents, "Deployment")


def is_ours(document: Document) -> bool:
    """Tell whether an object is of Torchrelay's making."""
    return bool((document["metadata"].get("labels") or {}).get(MANAGED_LABEL) == MANAGER)


def is_forced() -> bool:
    """Tell whether fields that others own are to be taken over in this run."""
    return os.environ.get(FORCE, "") == "1"


def applicable(api: Api, wanted: Wanted, *kinds: str) -> Iterator[Document]:
    """Yield the manifests of some kinds; an account that somebody else made, to give it rights, is left as it is.

    Raises DeployFailed for anything else of that name that is not ours.
    """
    for kind in kinds:
        document = of_kind(wanted.documents, kind)
        name, namespace = document["metadata"]["name"], document["metadata"]["namespace"]
        found = api.get(kind, name)
        if found is None or is_ours(found):
            yield document
        elif kind != "ServiceAccount":
            raise DeployFailed(
                f"{kind} {namespace}/{name} is there already and not of Torchrelay's making",
                "choose another name or namespace in model.yaml, or delete it",
            )


def apply_kinds(api: Api, wanted: Wanted, *kinds: str, dry_run: bool = False) -> None:
    """Apply the manifests of some kinds; a dry run lets the API say what it would refuse, and changes nothing.

    Raises DeployFailed, ClusterRefused.
    """
    for document in list(applicable(api, wanted, *kinds)):
        api.apply(document, dry_run=dry_run, force=is_forced())


def apply_version(
    api: Api, rendered: Document, version: Version, *, proved: bool, previous: Version | None, force: bool = True
) -> None:
    """Apply the Deployment that serves a version, under the name and labels of the rendered or live one.

    The number of pods that an autoscaler has set stays, whatever it was when the version was live before.
    """
    if state.is_scaled_by_cluster(api.get("Deployment", rendered["metadata"]["name"])):
        version = replace(version, spec=state.without_replicas(version.spec))
    described = {key: rendered["metadata"][key] for key in ("name", "namespace", "labels")}
    api.apply(state.deployment({"metadata": described}, version, proved=proved, previous=previous), force=force)


def remove_ours(api: Api, name: str) -> bool:
    """Remove what was applied; says whether there was anything."""
    found = False
    for kind in OURS:
        document = api.get(kind, name)
        if document is not None and is_ours(document):
            found = api.delete(kind, name) or found
    return found


def remove_first(api: Api, name: str, mine: Version | None) -> bool:
    """Remove what was applied of a first version; says whether it did.

    `mine`: the version that was applied, if any; whatever else serves under that name stays, as another run put it there.
    """
    try:
        live = state.read(api.get("Deployment", name))
    except DeployFailed:
        return False
    if live is not None and (mine is None or not live.version.serves(mine)):
        return False
    return remove_ours(api, name)
