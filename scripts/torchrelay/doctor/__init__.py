"""Doctor: checks everything that a deployment needs before anything is built, and reports all problems at once, each with its fix.

Checks change nothing. Each runs in its own thread with a deadline, so that a registry that does not respond hides no other finding.
A check that does not apply (no cluster, no registry) reports nothing.
"""

import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path

from rich.markup import escape

from torchrelay.core.errors import DeployFailed, DoctorFailed, ModelInvalid, TorchrelayError
from torchrelay.core.log import table
from torchrelay.doctor import aws, cluster, machine, stores, workflow
from torchrelay.doctor.finding import CheckFunction, DoctorOptions, Finding, Subject, bad, good
from torchrelay.model.model import load
from torchrelay.targets import chosen_target

DEADLINE_S = 30.0
"""For all checks together: they run at the same time."""
CHECKS: dict[str, CheckFunction] = {
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
"""Every check by name, in the order of the table."""


def examine(options: DoctorOptions, checks: Mapping[str, CheckFunction] = CHECKS, deadline_s: float = DEADLINE_S) -> list[Finding]:
    """Run the checks at the same time and return all findings in the order of the checks."""
    subject, findings = _subject(options)
    by_check: dict[str, list[Finding]] = {}
    threads = {
        name: threading.Thread(target=_run, args=(name, check, subject, by_check), name=f"doctor {name}", daemon=True)
        for name, check in checks.items()
    }
    end = time.monotonic() + deadline_s
    for thread in threads.values():
        thread.start()
    for name, thread in threads.items():
        thread.join(max(0.0, end - time.monotonic()))
        late = bad(name, f"no response within {deadline_s:.0f} s", "it timed out: check firewalls and proxies")
        findings += by_check.get(name, [late])
    return findings


def _run(name: str, check: CheckFunction, subject: Subject, by_check: dict[str, list[Finding]]) -> None:
    try:
        findings = check(subject)
        by_check[name] = [] if findings is None else [findings] if isinstance(findings, Finding) else list(findings)
    except TorchrelayError as error:
        by_check[name] = [bad(name, error.message, error.fix)]
    except Exception as error:
        # A bug in one check hides no other. The error's text may contain a secret, so only its place is shown.
        frame = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{type(error).__name__} at {Path(frame.filename).name}:{frame.lineno}"
        by_check[name] = [bad(name, f"the check itself failed: {place}", "report this line as a bug")]


def _subject(options: DoctorOptions) -> tuple[Subject, list[Finding]]:
    """Read the model; its mistakes are the first findings, and checks that need no model still run."""
    try:
        loaded = load(options.model_dir)
    except ModelInvalid as error:
        return Subject(options, None, options.target or ""), list(_problems(error))
    findings = list(_problems(ModelInvalid(loaded.problems))) if loaded.problems else [good("model", loaded.model.name)]
    try:
        target = chosen_target(loaded.model, options.target, options.repository or None)
    except DeployFailed as error:
        findings.append(bad("target", error.message, error.fix))
        target = options.target or ""
    return Subject(options, loaded.model, target, loaded.bad), findings


def _problems(error: ModelInvalid) -> Iterator[Finding]:
    for problem in error.problems:
        place = problem.file if problem.line is None else f"{problem.file}:{problem.line}"
        yield bad("model", f"{place}: {problem.field} {problem.message}".replace(":  ", ": "), problem.fix or f"correct {place}")


def show(findings: list[Finding]) -> None:
    """Print the findings as a table on stderr, each problem with its fix."""
    rows = [
        [one.name, "ok" if one.ok else "FAILED", escape(one.detail if one.ok else f"{one.detail}\nfix: {one.fix}")]
        for one in findings
    ]
    table("doctor", ["check", "result", "details"], rows)


def require_passing(findings: list[Finding]) -> None:
    """Raise DoctorFailed, with every failed check and its fix, unless all checks passed."""
    failed = [one for one in findings if not one.ok]
    if failed:
        raise DoctorFailed(
            "\n".join(f"{one.name}: {one.detail}" for one in failed),
            failed[0].fix if len(failed) == 1 else "".join(f"\n    {one.name}: {one.fix}" for one in failed),
        )
