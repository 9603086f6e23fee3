"""What a target is: what it takes, what it gives, and what is written down of a deployment."""

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
from torchrelay.verification.compare import compare
from torchrelay.verification.prober import ProbeAnswer, Prober, ProbeRequest
from torchrelay.verification.replay import CONCURRENCY, replay

State = Literal["ready", "not_ready", "failed", "stopped", "absent"]


@dataclass(frozen=True)
class Context:
    """What every target is made with. `bind` is the address that the docker target publishes its port on."""

    model_dir: Path
    model: Model
    progress: Progress
    cache: Path
    bind: str = "127.0.0.1"


def no_auth(_reference: str) -> dict[str, str] | None:
    """Return no credentials: for registries that ask for none."""
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
    """serving.json for those targets; they fill in where the model and its dependencies lie."""
    image: Image | None = None
    """The composed image, when this machine made it or a bundle holds it."""
    reference: str = ""
    """`repository@sha256:...` to pull where the image is not at hand."""
    auth: Callable[[str], dict[str, str] | None] = no_auth
    """Gives `username` and `password` for `reference`, asked only when it is pulled."""
    source: Origin = field(default_factory=Origin)
    """Where it comes from; a target refuses one that is older than what it serves (`require_newer`)."""


@dataclass(frozen=True)
class Plan:
    """What `apply` would do; `unchanged` when this very release already answers."""

    unchanged: bool
    steps: tuple[str, ...]


@dataclass(frozen=True)
class Endpoint:
    """What answers now. `previous` is the digest that a rollback would restore, empty when there is none."""

    target: str
    url: str
    digest: str
    version: str
    state: State
    detail: str = ""
    previous: str = ""
    skipped: bool = False

    def summary(self) -> dict[str, Any]:
        """Return what the CLI prints."""
        return asdict(self)


class Target(Protocol):
    """One place to deploy to; one file in this folder and one row in `targets.TARGETS`."""

    def plan(self, release: Release) -> Plan:
        """Say what `apply` would do, and do nothing."""

    def apply(self, release: Release) -> Endpoint:
        """Put a release into service; nothing happens when it already is.

        Raises:
            GateFailed: it failed its samples before it got any traffic; what ran before still runs.
            RolledBack: it failed after that, and what ran before runs again.
            RollbackFailed: neither answers.
            Outdated: a newer commit is live; nothing was changed.
            PortTaken, DeployFailed: it could not be started; what ran before still runs.
        """

    def status(self) -> Endpoint:
        """Look at what runs, not at what was written down."""

    def verify(self, samples: Sequence[Sample]) -> None:
        """Hold the live endpoint against samples.

        Raises GateFailed.
        """

    def rollback(self) -> Endpoint:
        """Put the previous version back into service and keep the present one as the previous.

        Raises DeployFailed when there is none, RollbackFailed when it does not come up (the present one stays).
        """

    def delete(self) -> bool:
        """Remove everything that `apply` made; says whether there was anything."""

    def logs(self, lines: int = 200) -> str:
        """Return the end of the live version's log."""

    def invoke(self, request: ProbeRequest, timeout_s: float = 60.0) -> ProbeAnswer:
        """Send one request to the live endpoint."""


@dataclass(frozen=True)
class Deployed:
    """One version as it was written down; `handle` is the target's own name for it."""

    digest: str
    version: str
    handle: str
    since: str

    @staticmethod
    def now(digest: str, version: str, handle: str) -> "Deployed":
        """Make one that begins now."""
        return Deployed(digest, version, handle, datetime.now(UTC).isoformat(timespec="seconds"))


@dataclass(frozen=True)
class Record:
    """`.torchrelay/deployments/<target>.json`: which version serves and which one a rollback restores."""

    current: Deployed | None = None
    previous: Deployed | None = None


def read_record(context: Context, target: str) -> Record:
    """Return what was written down last, an empty record when that is nothing or unreadable."""
    found = read_json(_record_path(context, target))
    try:
        return Record(**{key: Deployed(**found[key]) if found[key] else None for key in ("current", "previous")})
    except (TypeError, KeyError):
        return Record()


def write_record(context: Context, target: str, record: Record) -> None:
    """Write down what serves now."""
    Workspace(context.model_dir).ensure()
    write_json(_record_path(context, target), asdict(record))


def forget_record(context: Context, target: str) -> None:
    """Remove what was written down."""
    _record_path(context, target).unlink(missing_ok=True)


def _record_path(context: Context, target: str) -> Path:
    return Workspace(context.model_dir).deployments / f"{target}.json"


def predict_path(model: Model) -> str:
    """Return the route of a model's predictions."""
    return f"/predictions/{model.name}"


def require_newer(release: Origin, live: Origin, what: str) -> None:
    """Refuse to put an older commit over a newer one; the same commit may come again. Called under the target's own lock.

    Commits are compared by how many lead to each, which says nothing across repositories or branches, or when it is unknown.

    Raises Outdated; `what` names what is live.
    """
    branches = [ref for ref in (release.ref, live.ref) if ref.startswith("refs/heads/")]
    if release.repository != live.repository or len(set(branches)) > 1 or not release.sequence:
        return
    if release.sequence < live.sequence:
        raise Outdated(
            f"{what} serves commit {live.commit[:12]}, number {live.sequence}; this is {release.commit[:12]},"
            f" number {release.sequence}: the older one is not put over it",
            "to go back on purpose, run `torchrelay rollback`, or revert the commit and push",
        )


def prove(prober: Prober, model: Model, samples: Sequence[Sample], log: Callable[[], str] = str) -> None:
    """Hold an endpoint against samples, alone and many at a time.

    Raises GateFailed, with the traceback that `log` gives, if any.
    """
    timeout_s = model.timeouts.response_s + 5
    outcome = replay(prober, list(samples), predict_path(model), CONCURRENCY, timeout_s)
    if not outcome.passed:
        raise explained(GateFailed(outcome.reason(), "compare the answers with the samples"), log())


def still_right(prober: Prober, model: Model, samples: Sequence[Sample]) -> bool:
    """Tell whether each sample, sent once, gets its answer: enough for a version that was proved before."""
    timeout_s = model.timeouts.response_s + 5
    sent = [ProbeRequest(one.name, "POST", one.path(predict_path(model)), one.content_type, one.body) for one in samples]
    answers = prober.send(sent, 1, timeout_s)
    return not any(
        answer.error or compare(one, answer.status, answer.content_type, answer.body, 0.0)
        for one, answer in zip(samples, answers, strict=True)
    )


def explained(failure: GateFailed, log: str, lines: int = 0) -> GateFailed:
    """Add the Python traceback of a server's log to a failure, and the likely mend; without one, the log's last lines."""
    traceback = diagnosis.python_traceback(log)
    shown = traceback or "\n".join(log.splitlines()[-lines:] if lines else [])
    if not shown:
        return failure
    return GateFailed(f"{failure.message}\n{shown}", diagnosis.likely_fix(shown) or failure.fix)
