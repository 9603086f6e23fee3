"""Deploy: puts a verified version on a target; also the verbs' questions about what runs there."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from torchrelay.core.errors import DeployFailed, NotAttested, NotVerified
from torchrelay.core.paths import cache_dir
from torchrelay.core.progress import Progress, Quiet
from torchrelay.core.text import shown
from torchrelay.core.workspace import Workspace
from torchrelay.image import versions
from torchrelay.image.serving import serving_config
from torchrelay.model.model import Model
from torchrelay.model.origin import origin_of
from torchrelay.oci import ecr
from torchrelay.oci.docker_config import docker_credentials
from torchrelay.oci.reference import parse_reference
from torchrelay.stages import attest
from torchrelay.targets import Context, Endpoint, Release, Target, target_of
from torchrelay.verification.verdict import require_passing

if TYPE_CHECKING:
    from torchrelay.image.mar import Archived
    from torchrelay.oci.image import Image
    from torchrelay.stages.build import Built
    from torchrelay.stages.bundle import Bundle
    from torchrelay.stages.check import Checked
    from torchrelay.stages.push import Pushed


def run(model_dir: Path, model: Model, target: str, release: Release, progress: Progress) -> Endpoint:
    """Put a version into service and verify it there; records go to `model_dir` or the bundle's folder.

    Raises GateFailed, RolledBack, RollbackFailed, Outdated, PortTaken, DeployFailed, DockerUnavailable: see
    `targets.contract.Target.apply`.
    """
    return target_at(model_dir, model, target, progress).apply(release)


def require_attested(model: Model, release: Release, verify_key: str) -> None:
    """Require a signed statement in the registry that exactly this image passed its gate; `verify_key` is PEM or @FILE.

    Raises NotAttested.
    """
    if not release.reference:
        raise NotAttested(f"{model.name}: the image was not pushed, so there is no attestation", "run `torchrelay push` first")
    attest.require_attested(release.reference, verify_key, config_digest=release.digest, model=model.name, source=release.source)


def release_of(
    model_dir: Path,
    checked: "Checked",
    target: str,
    archived: "Archived",
    built: "Built | None",
    pushed: "Pushed | None",
) -> Release:
    """Describe the version to deploy: an image by the config digest of its verdict, otherwise by everything that is served.

    Raises NotVerified for an image without a passing verdict.
    """
    samples, source = tuple(checked.samples), origin_of(model_dir)
    if target == "local":
        others = versions.other_versions(model_dir, checked.model, archived.version)
        folders = [(one.version, str(one.path.resolve())) for one in others]
        serving = serving_config(checked.model, archived.version, checked.samples, None, "", folders)
        parts = [archived.inputs, serving, *(one.sha256 for one in others)]
        digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
        return Release(archived.version, f"sha256:{digest}", samples, archive=archived.path, serving=serving, source=source)
    if built is None:
        raise NotVerified(f"{model_dir}: there is no built image", "run `torchrelay build`, then `torchrelay verify`")
    config = built.image.config_digest
    require_passing(Workspace(model_dir), config)
    release = Release(archived.version, config, samples, image=built.image, source=source)
    return _at(release, built.image, pushed)


def release_of_bundle(bundle: "Bundle", pushed: "Pushed | None") -> Release:
    """Describe the version of a bundle, by the config digest of its verdict. Raises NotVerified when a different one was pushed."""
    release = Release(bundle.version, bundle.image.config_digest, bundle.samples, image=bundle.image, source=bundle.source)
    return _at(release, bundle.image, pushed)


def _at(release: Release, image: "Image", pushed: "Pushed | None") -> Release:
    """Add the reference to pull from, which must have the digest of this image. Raises NotVerified otherwise."""
    if pushed is None:
        return release
    if pushed.digest != image.digest or not pushed.reference.endswith(f"@{image.digest}"):
        raise NotVerified(
            f"the registry has {shown(pushed.reference, 200)}, but the verified image is {image.digest}",
            "run `torchrelay push` again",
        )
    return replace(release, reference=pushed.reference, auth=auth_for)


def target_at(model_dir: Path, model: Model, target: str, progress: Progress) -> Target:
    """Return a target for a model. Raises DeployFailed when there is no such target, InputsInvalid for a wrong variable."""
    return target_of(target, Context(model_dir, model, progress, cache_dir()))


def status(model_dir: Path, model: Model, target: str) -> Endpoint:
    """Return what is currently deployed."""
    return target_at(model_dir, model, target, Quiet()).status()


def deployed(model_dir: Path, model: Model, target: str) -> Target:
    """Return a target that has a deployment. Raises DeployFailed when it has none."""
    chosen = target_at(model_dir, model, target, Quiet())
    if chosen.status().state == "absent":
        raise DeployFailed(f"{model.name} is not deployed on {target}", f"run `torchrelay deploy --target {target}`")
    return chosen


def auth_for(reference: str) -> dict[str, str] | None:
    """Return the credentials for pulling a reference: ECR's short-lived token, otherwise those of `docker login`."""
    host = parse_reference(reference.partition("@")[0], "latest").host
    pair = ecr.registry_credentials(host) if ecr.is_ecr(host) else docker_credentials(host)
    return {"username": pair[0], "password": pair[1]} if pair else None
