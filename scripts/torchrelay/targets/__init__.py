"""Where a verified version is deployed: one package per target, found by name in `TARGETS` and imported when it is used."""

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING

from torchrelay.core.errors import DeployFailed
from torchrelay.core.text import printable
from torchrelay.model.model import Model
from torchrelay.targets.contract import Context, Deployed, DeploymentRecord, DeployPlan, Endpoint, Release, Target

__all__ = ["TARGETS", "Context", "DeployPlan", "Deployed", "DeploymentRecord", "Endpoint", "Release", "Target", "target_of"]

if TYPE_CHECKING:
    from torchrelay.targets.docker.target import DockerTarget
    from torchrelay.targets.kubernetes.target import KubernetesTarget
    from torchrelay.targets.local.target import LocalTarget

    CLASSES: tuple[Callable[[Context], Target], ...] = (DockerTarget, KubernetesTarget, LocalTarget)

TARGETS = {"docker": "DockerTarget", "kubernetes": "KubernetesTarget", "local": "LocalTarget"}
"""Target name (and its package here) -> class in its `target.py`. Only the used one is imported: kubernetes takes a second."""


def target_of(name: str, context: Context) -> Target:
    """Return a target by its name.

    Raises DeployFailed for an unknown name.
    """
    if name not in TARGETS:
        raise DeployFailed(f"unknown target {name!r}", f"use one of {', '.join(sorted(TARGETS))}")
    make: Callable[[Context], Target] = getattr(import_module(f"{__name__}.{name}.target"), TARGETS[name])
    return make(context)


def chosen_target(model: Model, target: str | None, repository: str | None = None, *, bundled: bool = False) -> str:
    """Return the target of a model: the named one, otherwise the first in model.yaml.

    Raises DeployFailed for a target that is not supported, and for a push or a bundle with the local target, which has no image.
    """
    chosen = target or model.first_target
    if chosen not in TARGETS:
        raise DeployFailed(
            f"the target {printable(chosen)!r} is not supported (yet)", f"use --target with one of {', '.join(sorted(TARGETS))}"
        )
    if chosen == "local" and repository:
        raise DeployFailed(
            "the local target builds no image, so there is nothing to push", "leave --repository out, or use --target docker"
        )
    if chosen == "local" and bundled:
        raise DeployFailed("the local target serves archives, but a bundle contains an image", "use --target docker or kubernetes")
    return chosen


def require_registry(chosen: str, repository: str | None) -> None:
    """Refuse a relay to a cluster without a registry, before anything is built. Raises DeployFailed."""
    if chosen == "kubernetes" and not repository:
        raise DeployFailed("a cluster pulls the image from a registry, and none is given", "give one: --repository HOST/PATH/")
