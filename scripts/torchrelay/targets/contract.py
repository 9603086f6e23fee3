"""What a target is: the release it takes, the endpoint it returns, and the record it keeps of a deployment."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Protocol

from torchrelay.core.errors import GateFailed, Outdated
from torchrelay.core.files import read_json, write_json
from torchrelay.core.progress import Progress
from torchrelay.core.workspace import Workspace
from torchrelay.model.model import Model
from torchrelay.model.origin import Origin
from torchrelay.model.samples import Sample
from torchrelay.oci.image import Image
from torchrelay.verification import diagnosis
from torchrelay.verification.prober import ProbeAnswer, Prober, ProbeRequest
from torchrelay.verification.replay import replay

State = Literal["ready", "not_ready", "failed", "stopped", "absent"]


@dataclass(frozen=True)
class Context:
    """The arguments of every target."""

    model_dir: Path
    model: Model
    progress: Progress
    cache: Path


def no_auth(_reference: str) -> dict[str, str] | None:
    """Return no credentials: for registries that need none."""
    return None


@dataclass(frozen=True)
class Release:
    """One version to deploy. `digest` (`sha256:...`) names it: the image's config digest, or the archive's inputs."""

    version: str
    digest: str
    samples: tuple[Sample, ...]
    archive: Path | None = None
    """The `.mar`, for targets without images."""
    serving: Mapping[str, Any] = field(default_factory=dict)
    """serving.json for those targets; they fill in the folders of the model and its dependencies."""
    image: Image | None = None
    """The composed image, when it was built on this machine or is in a bundle."""
    reference: str = ""
    """`repository@sha256:...`, pulled when the image is not on this machine."""
    auth: Callable[[str], dict[str, str] | None] = no_auth
    """Returns `username` and `password` for `reference`; called only when it is pulled."""
    source: Origin = field(default_factory=Origin)
    """The commit it was built from; a target refuses one older than the commit it serves (`require_newer`)."""


@dataclass(frozen=True)
class DeployPlan:
    """What `apply` would do; `unchanged` when exactly this release already runs."""

    unchanged: bool
    steps: tuple[str, ...]


@dataclass(frozen=True)
class Endpoint:
    """What is deployed now. `previous` is the digest that a rollback would restore, empty when there is none."""

    target: str
    url: str
    digest: str
    version: str
    state: State
    detail: str = ""
    previous: str = ""
    skipped: bool = False

    def summary(self) -> dict[str, Any]:
        """Return the fields that the CLI prints."""
        return asdict(self)


class Target(Protocol):
    """One place to deploy to: one package in this folder and one row in `targets.TARGETS`."""

    def plan(self, release: Release) -> DeployPlan:
        """Return what `apply` would do, and change nothing."""

    def apply(self, release: Release) -> Endpoint:
        """Deploy a release; does nothing when it is deployed already.

        Raises:
            GateFailed: it failed its samples before it got any traffic; what ran before still runs.
            RolledBack: it failed after that, and what ran before runs again.
            RollbackFailed: it failed after that, and what ran before could not be restored.
            Outdated: a newer commit is live; nothing was changed.
            PortTaken, DeployFailed: it could not be started; what ran before still runs.
        """

    def status(self) -> Endpoint:
        """Return what actually runs, not what was recorded."""

    def verify(self, samples: Sequence[Sample]) -> None:
        """Send the samples to the live endpoint and compare the answers.

        Raises GateFailed.
        """

    def rollback(self) -> Endpoint:
        """Deploy the previous version again; the current one becomes the previous.

        Raises DeployFailed when there is no previous version, RollbackFailed when it does not start (the current one stays).
        """

    def delete(self) -> bool:
        """Remove everything that `apply` created; return whether there was anything."""

    def logs(self, lines: int = 200) -> str:
        """Return the end of the live version's log."""

    def invoke(self, request: ProbeRequest, timeout_s: float = 60.0) -> ProbeAnswer:
        """Send one request to the live endpoint."""


@dataclass(frozen=True)
class Deployed:
    """One recorded version; `handle` is the target's own name for it."""

    digest: str
    version: str
    handle: str
    since: str

    @staticmethod
    def now(digest: str, version: str, handle: str) -> "Deployed":
        """Return a version that is deployed now."""
        return Deployed(digest, version, handle, datetime.now(UTC).isoformat(timespec="seconds"))


@dataclass(frozen=True)
class DeploymentRecord:
    """`.torchrelay/deployments/<target>.json`: the version that serves and the one that a rollback restores."""

    current: Deployed | None = None
    previous: Deployed | None = None


def read_record(context: Context, target: str) -> DeploymentRecord:
    """Return the last record; an empty one when there is none or it cannot be read."""
    document = read_json(_record_path(context, target))
    try:
        return DeploymentRecord(**{key: Deployed(**document[key]) if document[key] else None for key in ("current", "previous")})
    except (TypeError, KeyError):
        return DeploymentRecord()


def write_record(context: Context, target: str, record: DeploymentRecord) -> None:
    """Record what serves now."""
    Workspace(context.model_dir).ensure()
    write_json(_record_path(context, target), asdict(record))


def forget_record(context: Context, target: str) -> None:
    """Remove the record."""
    _record_path(context, target).unlink(missing_ok=True)


def _record_path(context: Context, target: str) -> Path:
    return Workspace(context.model_dir).deployments / f"{target}.json"


def require_newer(release: Origin, live: Origin, what: str) -> None:
    """Refuse to replace a newer commit by an older one; the same commit is allowed. Call it while the target's lock is held.

    Commits are compared by their number of ancestors, only within one repository and branch, and only when it is known.

    Raises Outdated; `what` names the live deployment.
    """
    branches = [ref for ref in (release.ref, live.ref) if ref.startswith("refs/heads/")]
    if release.repository != live.repository or len(set(branches)) > 1 or not release.sequence:
        return
    if release.sequence < live.sequence:
        raise Outdated(
            f"{what} already runs a newer commit ({live.commit[:12]}, #{live.sequence});"
            f" refusing to deploy {release.commit[:12]} (#{release.sequence})",
            "to go back on purpose, run `torchrelay rollback`, or revert the commit and push",
        )


LEAST_REQUESTS = 50
"""Requests that a version answers before it gets traffic: some turn wrong only after a warm-up."""


def verify_samples(
    prober: Prober, model: Model, samples: Sequence[Sample], read_log: Callable[[], str] = str, *, least: int = 0
) -> None:
    """Send the samples to an endpoint, alone and many at a time, and compare the answers; `least` requests in all, or more.

    Raises GateFailed, with the traceback in the server's log, if any.
    """
    replayed = replay(prober, model, samples, least=least)
    if not replayed.passed:
        raise explained(GateFailed(replayed.reason(), "compare the answers with the samples"), read_log())


def explained(failure: GateFailed, log: str, lines: int = 0) -> GateFailed:
    """Add the Python traceback of a server's log to a failure, and the likely fix; without a traceback, the log's last lines."""
    traceback = diagnosis.python_traceback(log)
    excerpt = traceback or "\n".join(log.splitlines()[-lines:] if lines else [])
    if not excerpt:
        return failure
    return GateFailed(f"{failure.message}\n{excerpt}", diagnosis.likely_fix(excerpt) or failure.fix)
