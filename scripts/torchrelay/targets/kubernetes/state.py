"""The state of a deployed model, stored in annotations of its Deployment.

torchrelay.org/digest, version, since     what is served
torchrelay.org/commit, sequence, ref, repository, run, actor     its origin
torchrelay.org/state                      `rolling` until the samples are answered through the Service, then `verified`
torchrelay.org/applied                    the Deployment's spec as it was applied
torchrelay.org/previous                   all of the above for the version that a rollback restores
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from torchrelay.core.errors import DeployFailed
from torchrelay.core.json_text import parse_untrusted
from torchrelay.model.origin import Source
from torchrelay.targets.contract import Release
from torchrelay.targets.kubernetes.manifests import MANAGED_LABEL, MANAGER, VERSION_LABEL, Document, label_value, of_kind

PREFIX = "torchrelay.org/"
VERIFIED, ROLLING = "verified", "rolling"
SCALER = "kube-controller-manager"  # the field manager of the HorizontalPodAutoscaler's controller


@dataclass(frozen=True)
class DeployedVersion:
    """One version and the Deployment's spec that serves it."""

    digest: str
    version: str
    since: str
    source: Source
    spec: Document

    @property
    def image(self) -> str:
        """The image that the nodes pull."""
        return str(self.spec["template"]["spec"]["containers"][0]["image"])

    def serves(self, other: "DeployedVersion") -> bool:
        """Return whether it is the same version under the same settings."""
        return (self.digest, self.spec) == (other.digest, other.spec)


@dataclass(frozen=True)
class Live:
    """The state in a Deployment. `previous` is the version that a rollback restores."""

    version: DeployedVersion
    verified: bool
    previous: DeployedVersion | None
    document: Document

    @property
    def last_verified(self) -> DeployedVersion | None:
        """The last verified version: this one, or the previous one when a rollout was interrupted."""
        return self.version if self.verified else self.previous


def version_of(release: Release, documents: list[Document]) -> DeployedVersion:
    """Return the version that rendered manifests serve."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return DeployedVersion(release.digest, release.version, now, release.source, of_kind(documents, "Deployment")["spec"])


def annotations_of(version: DeployedVersion, *, verified: bool, previous: DeployedVersion | None) -> dict[str, str]:
    """Return the annotations of the Deployment."""
    facts: dict[str, Any] = {
        "digest": version.digest,
        "version": version.version,
        "since": version.since,
        **asdict(version.source),
        "state": VERIFIED if verified else ROLLING,
        "applied": json.dumps(version.spec, sort_keys=True, separators=(",", ":")),
        "previous": json.dumps(asdict(previous), sort_keys=True, separators=(",", ":")) if previous else "",
    }
    return {f"{PREFIX}{key}": str(value) for key, value in facts.items()}


def deployment(rendered: Document, version: DeployedVersion, *, verified: bool, previous: DeployedVersion | None) -> Document:
    """Return the Deployment that serves a version; name and labels are those of the rendered one."""
    metadata = rendered["metadata"]
    labels = {**metadata["labels"], VERSION_LABEL: label_value(version.version)}
    annotations = {**metadata.get("annotations", {}), **annotations_of(version, verified=verified, previous=previous)}
    described = {**metadata, "labels": labels, "annotations": annotations}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": described, "spec": version.spec}


def read(document: Document | None) -> Live | None:
    """Read the state from a Deployment's annotations; None without a Deployment.

    Raises DeployFailed when Torchrelay did not create it, or its annotations are damaged.
    """
    if document is None:
        return None
    metadata = document["metadata"]
    name, annotations = metadata["name"], metadata.get("annotations") or {}
    where = f"{metadata.get('namespace', '')}/{name}"
    if (metadata.get("labels") or {}).get(MANAGED_LABEL) != MANAGER:
        raise DeployFailed(
            f"Deployment {where} exists already, but Torchrelay did not create it",
            "choose another name or namespace in model.yaml, or delete it",
        )
    if f"{PREFIX}digest" not in annotations:  # k8s/base applied by hand: it can be restored as well
        version = DeployedVersion("", metadata["labels"].get(VERSION_LABEL, "what ran before"), "", Source(), document["spec"])
        return Live(version, True, None, document)
    try:
        before = annotations.get(f"{PREFIX}previous")
        previous = _version(parse_untrusted(before)) if before else None
        facts = {key.removeprefix(PREFIX): value for key, value in annotations.items() if key.startswith(PREFIX)}
        version = _version({**facts, "source": facts, "spec": parse_untrusted(facts["applied"])})
    except (ValueError, KeyError, TypeError) as error:
        raise DeployFailed(
            f"the annotations {PREFIX}* of Deployment {where} are damaged: {error!r}",
            f"`kubectl delete deployment {name}`, then deploy",
        ) from error
    return Live(version, facts.get("state") == VERIFIED, previous, document)


def _version(facts: Mapping[str, Any]) -> DeployedVersion:
    source = {key: str(facts["source"].get(key, "")) for key in Source.__dataclass_fields__}
    sequence = int(source["sequence"]) if source["sequence"].isdecimal() else 0
    origin = Source(source["repository"], source["commit"], source["ref"], sequence, source["run"], source["actor"])
    return DeployedVersion(str(facts["digest"]), str(facts["version"]), str(facts["since"]), origin, dict(facts["spec"]))


def is_scaled_by_cluster(document: Document | None) -> bool:
    """Return whether a HorizontalPodAutoscaler sets the number of pods, which is then left unchanged."""
    managers = ((document or {}).get("metadata") or {}).get("managedFields") or []
    return any(
        one.get("manager") == SCALER and "f:replicas" in ((one.get("fieldsV1") or {}).get("f:spec") or {}) for one in managers
    )


def without_replicas(spec: Document) -> Document:
    """Return a Deployment's spec without the number of pods."""
    return {key: value for key, value in spec.items() if key != "replicas"}
