"""Where a verified version goes: one package per target, found by name in `TARGETS`."""

from collections.abc import Callable

from torchrelay.core.errors import DeployFailed
from torchrelay.core.text import printable
from torchrelay.model.model import Model
from torchrelay.targets.contract import Context, Deployed, Endpoint, Plan, Record, Release, Target
from torchrelay.targets.docker.target import DockerTarget
from torchrelay.targets.kubernetes.target import KubernetesTarget
from torchrelay.targets.local.target import LocalTarget

__all__ = ["TARGETS", "Context", "Deployed", "Endpoint", "Plan", "Record", "Release", "Target", "target_of"]

TARGETS: dict[str, Callable[[Context], Target]] = {"docker": DockerTarget, "kubernetes": KubernetesTarget, "local": LocalTarget}


def target_of(name: str, context: Context) -> Target:
    """Return a target by its name.

    Raises DeployFailed when there is none of that name.
    """
    try:
        return TARGETS[name](context)
    except KeyError:
        raise DeployFailed(f"there is no target {name!r}", f"name one of {', '.join(sorted(TARGETS))}") from None


def chosen_target(model: Model, target: str | None, repository: str | None = None, *, bundled: bool = False) -> str:
    """Return where a model goes: the named target, else the first that model.yaml names.

    Raises DeployFailed for a target that is not there (yet), and for a push or a bundle with the local one, which has no image.
    """
    chosen = target or model.first_target
    if chosen not in TARGETS:
        raise DeployFailed(
            f"nothing is deployed to {printable(chosen)!r} yet", f"use --target with one of {', '.join(sorted(TARGETS))}"
        )
    if chosen == "local" and repository:
        raise DeployFailed(
            "the local target builds no image, so there is nothing to push", "leave --repository out, or use --target docker"
        )
    if chosen == "local" and bundled:
        raise DeployFailed("the local target serves archives, and a bundle holds an image", "use --target docker or kubernetes")
    return chosen


def require_registry(chosen: str, repository: str | None) -> None:
    """Refuse a relay onto a cluster that pushes nowhere, before anything is built. Raises DeployFailed."""
    if chosen == "kubernetes" and not repository:
        raise DeployFailed("a cluster pulls the image from a registry, and none is named", "name one: --repository HOST/PATH/")
