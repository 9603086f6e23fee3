"""What a cluster says of a deployed model: all that is known of a version is annotated on its Deployment.

torchrelay.org/digest, version, since     what is served
torchrelay.org/commit, sequence, ref, repository, run, actor     where it comes from
torchrelay.org/state                      `rolling` until the samples were answered through the Service, then `proved`
torchrelay.org/applied                    the Deployment's spec as it was applied
torchrelay.org/previous                   all of this of the version that a rollback restores
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from torchrelay.core.errors import DeployFailed
from torchrelay.model.origin import Origin
from torchrelay.targets.contract import Release
from torchrelay.targets.kubernetes.manifests import MANAGED_LABEL, MANAGER, VERSION_LABEL, Document, label_value, of_kind

PREFIX = "torchrelay.org/"
PROVED, ROLLING = "proved", "rolling"
SCALER = "kube-controller-manager"  # the field manager of the HorizontalPodAutoscaler's controller


@dataclass(frozen=True)
class Version:
    """One version and the Deployment's spec that serves it."""

    digest: str
    version: str
    since: str
    source: Origin
    spec: Document

    @property
    def image(self) -> str:
        """What the nodes pull."""
        return str(self.spec["template"]["spec"]["containers"][0]["image"])

    def serves(self, other: "Version") -> bool:
        """Tell whether it is the same version under the same settings."""
        return (self.digest, self.spec) == (other.digest, other.spec)


@dataclass(frozen=True)
class Live:
    """What the Deployment says. `previous` is what a rollback restores."""

    version: Version
    proved: bool
    previous: Version | None
    document: Document

    @property
    def good(self) -> Version | None:
        """The last version that was proved: this one, or the previous one when a rollout was cut short."""
        return self.version if self.proved else self.previous


def version_of(release: Release, documents: list[Document]) -> Version:
    """Return the version that rendered manifests serve."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return Version(release.digest, release.version, now, release.source, of_kind(documents, "Deployment")["spec"])


def annotations_of(version: Version, *, proved: bool, previous: Version | None) -> dict[str, str]:
    """Return what is annotated on the Deployment."""
    told: dict[str, Any] = {
        "digest": version.digest,
        "version": version.version,
        "since": version.since,
        **asdict(version.source),
        "state": PROVED if proved else ROLLING,
        "applied": json.dumps(version.spec, sort_keys=True, separators=(",", ":")),
        "previous": json.dumps(asdict(previous), sort_keys=True, separators=(",", ":")) if previous else "",
    }
    return {f"{PREFIX}{key}": str(value) for key, value in told.items()}


def deployment(rendered: Document, version: Version, *, proved: bool, previous: Version | None) -> Document:
    """Return the Deployment that serves a version; name and labels are those of the rendered one."""
    metadata = rendered["metadata"]
    labels = {**metadata["labels"], VERSION_LABEL: label_value(version.version)}
    annotations = {**metadata.get("annotations", {}), **annotations_of(version, proved=proved, previous=previous)}
    described = {**metadata, "labels": labels, "annotations": annotations}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": described, "spec": version.spec}


def read(found: Document | None) -> Live | None:
    """Read a Deployment's annotations.

    Raises DeployFailed for one that is not ours, or whose annotations were damaged.
    """
    if found is None:
        return None
    metadata = found["metadata"]
    name, annotations = metadata["name"], metadata.get("annotations") or {}
    where = f"{metadata.get('namespace', '')}/{name}"
    if (metadata.get("labels") or {}).get(MANAGED_LABEL) != MANAGER:
        raise DeployFailed(
            f"Deployment {where} is there already and not of Torchrelay's making",
            "choose another name or namespace in model.yaml, or delete it",
        )
    if f"{PREFIX}digest" not in annotations:  # k8s/base applied by hand: what to go back to all the same
        return Live(
            Version("", metadata["labels"].get(VERSION_LABEL, "what ran before"), "", Origin(), found["spec"]), True, None, found
        )
    try:
        before = annotations.get(f"{PREFIX}previous")
        previous = _version(json.loads(before)) if before else None
        told = {key.removeprefix(PREFIX): value for key, value in annotations.items() if key.startswith(PREFIX)}
        version = _version({**told, "source": told, "spec": json.loads(told["applied"])})
    except (ValueError, KeyError, TypeError) as error:
        raise DeployFailed(
            f"the annotations {PREFIX}* of Deployment {where} are damaged: {error!r}",
            f"`kubectl delete deployment {name}`, then deploy",
        ) from error
    return Live(version, told.get("state") == PROVED, previous, found)


def _version(told: Mapping[str, Any]) -> Version:
    source = {key: str(told["source"].get(key, "")) for key in Origin.__dataclass_fields__}
    sequence = int(source["sequence"]) if source["sequence"].isdecimal() else 0
    made = Origin(source["repository"], source["commit"], source["ref"], sequence, source["run"], source["actor"])
    return Version(str(told["digest"]), str(told["version"]), str(told["since"]), made, dict(told["spec"]))


def is_scaled_by_cluster(found: Document | None) -> bool:
    """Tell whether a HorizontalPodAutoscaler sets the number of pods, which is then left alone."""
    managers = ((found or {}).get("metadata") or {}).get("managedFields") or []
    return any(
        one.get("manager") == SCALER and "f:replicas" in ((one.get("fieldsV1") or {}).get("f:spec") or {}) for one in managers
    )


def without_replicas(spec: Document) -> Document:
    """Return a Deployment's spec that leaves the number of pods to others."""
    return {key: value for key, value in spec.items() if key != "replicas"}
