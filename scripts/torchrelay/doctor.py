"""Doctor: all that the relay will need, looked at before anything is built; every finding at once, each with its mend.

A check asks and changes nothing. It runs in a thread of its own and has a deadline, so a registry that says nothing hides no other
finding. What it cannot apply to (no cluster named, no registry given) is left out.
"""

import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.markup import escape

from torchrelay.errors import DeployFailed, DoctorFailed, ModelInvalid, TorchrelayError
from torchrelay.model import Model, load
from torchrelay.report import table
from torchrelay.wording import printable

DEADLINE_S = 30.0
"""For all checks together: they run at the same time."""


@dataclass(frozen=True)
class Check:
    """One finding: `detail` says what was seen, `fix` the line that mends it when it is not `ok`."""

    name: str
    ok: bool
    detail: str
    fix: str = ""

    def summary(self) -> dict[str, Any]:
        """Return what the CLI prints."""
        return asdict(self)


@dataclass(frozen=True)
class Asked:
    """What is to be examined: empty text is absent."""

    model_dir: Path
    target: str | None = None
    repository: str = ""
    aws_role: str = ""
    aws_region: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Subject:
    """`Asked` with the model read, and the target chosen as relay chooses it; empty when there is none."""

    asked: Asked
    model: Model | None
    target: str


Probe = Callable[[Subject], Check | Iterable[Check] | None]
"""A check: finds one thing or several, or None where it does not apply. A TorchrelayError that it raises is its finding."""


def good(name: str, detail: str) -> Check:
    """Return a finding that is well."""
    return Check(name, True, printable(detail, 400))


def bad(name: str, detail: str, fix: str) -> Check:
    """Return a finding that is not."""
    return Check(name, False, printable(detail, 400), fix)


def probes() -> dict[str, Probe]:
    """Return every check by its name, in the order of the table."""
    from torchrelay import doctor_aws, doctor_cluster, doctor_machine, doctor_stores, doctor_workflow  # noqa: PLC0415 -- they import this

    return {
        "python": doctor_machine.python,
        "git": doctor_machine.git,
        "docker": doctor_machine.docker,
        "cache": doctor_machine.cache,
        "disk": doctor_machine.disk,
        "weights": doctor_stores.weights,
        "registry": doctor_stores.registry,
        "identity": doctor_aws.identity,
        "aws": doctor_aws.aws,
        "cluster": doctor_cluster.cluster,
        "workflow": doctor_workflow.workflow,
    }


def examine(asked: Asked, chosen: Mapping[str, Probe] | None = None, deadline_s: float = DEADLINE_S) -> list[Check]:
    """Run the checks at the same time and return all findings in their order."""
    subject, checks = _subject(asked)
    found: dict[str, list[Check]] = {}
    chosen = probes() if chosen is None else chosen
    threads = {
        name: threading.Thread(target=_run, args=(name, probe, subject, found), name=f"doctor {name}", daemon=True)
        for name, probe in chosen.items()
    }
    end = time.monotonic() + deadline_s
    for thread in threads.values():
        thread.start()
    for name, thread in threads.items():
        thread.join(max(0.0, end - time.monotonic()))
        late = bad(name, f"no answer within {deadline_s:.0f} s", "see why it hangs: a firewall that drops, or a proxy?")
        checks += found.get(name, [late])
    return checks


def _run(name: str, probe: Probe, subject: Subject, found: dict[str, list[Check]]) -> None:
    try:
        told = probe(subject)
        found[name] = [] if told is None else [told] if isinstance(told, Check) else list(told)
    except TorchrelayError as error:
        found[name] = [bad(name, error.message, error.fix)]
    except Exception as error:
        # A check that breaks is a finding, and hides no other. What the error says may hold anything, so its place is told instead.
        frame = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{type(error).__name__} at {Path(frame.filename).name}:{frame.lineno}"
        found[name] = [bad(name, f"the check itself failed: {place}", "report it, with this line")]


def _subject(asked: Asked) -> tuple[Subject, list[Check]]:
    """Read the model; what is wrong with it is the first finding, and the checks that need none go on."""
    from torchrelay.relay import chosen_target  # noqa: PLC0415 -- it imports every stage

    try:
        loaded = load(asked.model_dir)
    except ModelInvalid as error:
        return Subject(asked, None, asked.target or ""), list(_problems(error))
    checks = list(_problems(ModelInvalid(loaded.problems))) if loaded.problems else [good("model", loaded.model.name)]
    try:
        target = chosen_target(loaded.model, asked.target, asked.repository or None)
    except DeployFailed as error:
        checks.append(bad("target", error.message, error.fix))
        target = asked.target or ""
    return Subject(asked, loaded.model, target), checks


def _problems(error: ModelInvalid) -> Iterator[Check]:
    for problem in error.problems:
        place = problem.file if problem.line is None else f"{problem.file}:{problem.line}"
        yield bad("model", f"{place}: {problem.field} {problem.message}".replace(":  ", ": "), problem.fix or f"correct {place}")


def show(checks: list[Check]) -> None:
    """Print the findings as a table on stderr, what is wrong with its mend."""
    rows = [
        [check.name, "ok" if check.ok else "FAILED", escape(check.detail if check.ok else f"{check.detail}\n{check.fix}")]
        for check in checks
    ]
    table("doctor", ["check", "", "what was seen, and what mends it"], rows)


def demand(checks: list[Check]) -> None:
    """Raise DoctorFailed, naming every failed check and its mend, unless all is well."""
    failed = [check for check in checks if not check.ok]
    if failed:
        raise DoctorFailed(
            "\n".join(f"{check.name}: {check.detail}" for check in failed),
            failed[0].fix if len(failed) == 1 else "".join(f"\n    {check.name}: {check.fix}" for check in failed),
        )
