"""Doctor: all that the relay will need, looked at before anything is built; every finding at once, each with its mend.

A check asks and changes nothing. It runs in a thread of its own and has a deadline, so a registry that says nothing hides no other
finding. What it cannot apply to (no cluster named, no registry given) is left out.
"""

import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path

from rich.markup import escape

from torchrelay.core.errors import DeployFailed, DoctorFailed, ModelInvalid, TorchrelayError
from torchrelay.core.log import table
from torchrelay.doctor.finding import Asked, Check, Probe, Subject, bad, good
from torchrelay.model.model import load

DEADLINE_S = 30.0
"""For all checks together: they run at the same time."""


def probes() -> dict[str, Probe]:
    """Return every check by its name, in the order of the table."""
    from torchrelay.doctor import aws, cluster, machine, stores, workflow  # noqa: PLC0415 -- they import this

    return {
        "python": machine.python,
        "git": machine.git,
        "docker": machine.docker,
        "cache": machine.cache,
        "disk": machine.disk,
        "weights": stores.weights,
        "registry": stores.registry,
        "identity": aws.identity,
        "aws": aws.aws,
        "cluster": cluster.cluster,
        "workflow": workflow.workflow,
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
    from torchrelay.targets import chosen_target  # noqa: PLC0415 -- it imports every stage

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
