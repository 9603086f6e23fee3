"""Deploy: a proved version onto a target; and what the command line asks of what runs there."""

import hashlib
import json
import os
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
from torchrelay.oci.docker_config import docker_credentials
from torchrelay.oci.reference import parse_reference
from torchrelay.targets import Context, Endpoint, Release, Target, target_of
from torchrelay.verification import verdict

if TYPE_CHECKING:
    from torchrelay.image.mar import Archived
    from torchrelay.oci.image import Image
    from torchrelay.stages.build import Built
    from torchrelay.stages.bundle import Bundle
    from torchrelay.stages.check import Checked
    from torchrelay.stages.push import Pushed


def deploy_stage(model_dir: Path, model: Model, target: str, release: Release, progress: Progress) -> Endpoint:
    """Put a version into service and prove it there; `model_dir`, or a bundle's folder, keeps what is written down of it.

    Raises GateFailed, RolledBack, RollbackFailed, Outdated, PortTaken, DeployFailed, DockerUnavailable: see
    `targets.contract.Target.apply`.
    """
    return target_at(model_dir, model, target, progress).apply(release)


def demand_attested(model: Model, release: Release, verify_key: str) -> None:
    """Ask the registry for a signed statement that this very image passed its gate; `verify_key` is PEM or @file.

    Raises NotAttested.
    """
    from torchrelay.stages import attest  # noqa: PLC0415 -- cryptography is slow to import, and needed with a key alone

    if not release.reference:
        raise NotAttested(f"{model.name}: the image was not pushed, so nothing is attested of it", "run `torchrelay push` first")
    attest.demand(release.reference, verify_key, config_digest=release.digest, model=model.name)


def release_of(
    model_dir: Path,
    checked: "Checked",
    target: str,
    archived: "Archived",
    built: "Built | None",
    pushed: "Pushed | None",
) -> Release:
    """Name the version to deploy: for images by the config digest that the verdict is on, else by all that is served.

    Raises NotVerified for an image without a passing verdict.
    """
    samples, source = tuple(checked.samples), origin_of(model_dir)
    if target == "local":
        others = versions.further(model_dir, checked.model, archived.version)
        folders = [(one.version, str(one.path.resolve())) for one in others]
        serving = serving_config(checked.model, archived.version, checked.samples, None, "", folders)
        served = [archived.inputs, serving, *(one.sha256 for one in others)]
        digest = hashlib.sha256(json.dumps(served, sort_keys=True).encode()).hexdigest()
        return Release(archived.version, f"sha256:{digest}", samples, archive=archived.path, serving=serving, source=source)
    if built is None:
        raise NotVerified(f"{model_dir}: there is no built image", "run `torchrelay build`, then `torchrelay verify`")
    config = built.image.config_digest
    verdict.demand(Workspace(model_dir), config)
    made = Release(archived.version, config, samples, image=built.image, source=source)
    return _at(made, built.image, pushed)


def release_of_bundle(bundle: "Bundle", pushed: "Pushed | None") -> Release:
    """Name the version of a bundle, by the config digest that its verdict is on. Raises NotVerified when another was pushed."""
    made = Release(bundle.version, bundle.image.config_digest, bundle.samples, image=bundle.image, source=bundle.source)
    return _at(made, bundle.image, pushed)


def _at(made: Release, image: "Image", pushed: "Pushed | None") -> Release:
    """Name where it is pulled from, which is by the digest of this very image. Raises NotVerified when it is not."""
    if pushed is None:
        return made
    if pushed.digest != image.digest or not pushed.reference.endswith(f"@{image.digest}"):
        raise NotVerified(f"pushed was {shown(pushed.reference, 200)}, proved is {image.digest}", "run `torchrelay push` again")
    return replace(made, reference=pushed.reference, auth=auth_for)


def target_at(model_dir: Path, model: Model, target: str, progress: Progress) -> Target:
    """Return a target for a model; TORCHRELAY_DOCKER_BIND is the address that the docker target publishes on.

    Raises DeployFailed when there is no such target.
    """
    bind = os.environ.get("TORCHRELAY_DOCKER_BIND") or "127.0.0.1"
    return target_of(target, Context(model_dir, model, progress, cache_dir(), bind))


def status(model_dir: Path, model: Model, target: str) -> Endpoint:
    """Return what answers now."""
    return target_at(model_dir, model, target, Quiet()).status()


def deployed(model_dir: Path, model: Model, target: str) -> Target:
    """Return a target that something is deployed on.

    Raises DeployFailed when nothing is.
    """
    found = target_at(model_dir, model, target, Quiet())
    if found.status().state == "absent":
        raise DeployFailed(f"{model.name} is not deployed on {target}", f"run `torchrelay deploy --target {target}`")
    return found


def auth_for(reference: str) -> dict[str, str] | None:
    """Return what Docker pulls a reference with: ECR's short-lived token, else what `docker login` left."""
    from torchrelay.oci import ecr  # noqa: PLC0415 -- boto3 is slow to import, and needed for ECR alone

    host = parse_reference(reference.partition("@")[0], "latest").host
    found = ecr.registry_credentials(host) if ecr.is_ecr(host) else docker_credentials(host)
    return {"username": found[0], "password": found[1]} if found else None
