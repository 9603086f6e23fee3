"""Where a proved version goes: one file per target, found by name in `TARGETS`."""

from collections.abc import Callable

from torchrelay.errors import DeployFailed
from torchrelay.targets.contract import Context, Deployed, Endpoint, Plan, Record, Release, Target
from torchrelay.targets.docker import DockerTarget
from torchrelay.targets.kubernetes import KubernetesTarget
from torchrelay.targets.local import LocalTarget

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
