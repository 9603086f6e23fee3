"""Doctor's checks of the caller's workflows: mistakes that would stop serve.yml, or start it without what it needs."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torchrelay.core.errors import ModelInvalid
from torchrelay.core.paths import SERVE_WORKFLOW
from torchrelay.core.text import meant, shown
from torchrelay.doctor.finding import Finding, Subject, bad, good
from torchrelay.model import yaml_document
from torchrelay.model.yaml_document import Document, FieldPath

USES = re.compile(r"(?:\./|[\w.-]+/[\w.-]+/)\.github/workflows/serve\.ya?ml(?:@\S+)?")
SERVE = SERVE_WORKFLOW
LEVEL = {"none": 0, "read": 1, "write": 2}
NEEDED = {"contents": "read", "id-token": "write", "attestations": "write", "pull-requests": "write"}
"""The permissions of serve.yml's jobs, for an installation without that file."""


def workflow(subject: Subject) -> Iterator[Finding]:
    """Check the jobs that call serve.yml, in every workflow of the model's repository."""
    root = repository_root(subject.options.model_dir)
    files = sorted((root / ".github" / "workflows").glob("*.y*ml")) if root else []
    callers = 0
    for file in files:
        name = str(file.relative_to(root)) if root else file.name
        try:
            document = yaml_document.parse(yaml_document.read_bytes(file, name, yaml_document.MAX_BYTES), name)
        except ModelInvalid as error:
            if USES.search(file.read_text(errors="replace")):
                yield from (
                    bad("workflow", str(one), one.fix or "see GitHub's documentation of workflows") for one in error.problems
                )
            continue
        jobs = calling_jobs(document)
        callers += len(jobs)
        for job in jobs:
            problems = list(_job_problems(document, job))
            yield from problems
            if not problems:
                yield good("workflow", f"{name}:{document.line(('jobs', job))}: job {job} calls serve.yml")
        if jobs:
            yield from _trigger_problems(document)
    if not callers:
        yield good("workflow", "no workflow calls serve.yml: you can run Torchrelay by hand or use its actions one by one")


def repository_root(folder: Path) -> Path | None:
    """Return the repository that contains a folder; None if there is none."""
    here = folder.absolute()
    return next((one for one in (here, *here.parents) if (one / ".git").exists()), None)


def calling_jobs(document: Document) -> list[str]:
    """Return the names of the jobs that call serve.yml."""
    jobs = document.value.get("jobs")
    if not isinstance(jobs, dict):
        return []
    return [name for name, job in jobs.items() if isinstance(job, dict) and USES.fullmatch(str(job.get("uses", "")))]


def needed_permissions(serve: Path = SERVE) -> dict[str, str]:
    """Return all permissions that the jobs of serve.yml ask for; GitHub does not start it for a caller that grants fewer."""
    jobs = _serve(serve).get("jobs")
    needed: dict[str, str] = {}
    for job in jobs.values() if isinstance(jobs, dict) else ():
        permissions = job.get("permissions") if isinstance(job, dict) else None
        for name, level in permissions.items() if isinstance(permissions, dict) else ():
            if LEVEL.get(str(level), 0) > LEVEL[needed.get(name, "none")]:
                needed[name] = str(level)
    return needed or NEEDED


def _serve(serve: Path) -> dict[str, Any]:
    try:
        return yaml_document.parse(serve.read_bytes(), serve.name).value
    except (OSError, ModelInvalid):
        return {}


def _declared(serve: Path, kind: str) -> dict[str, Any] | None:
    """Return the inputs or secrets that serve.yml declares; None if this installation does not have the file."""
    call = _serve(serve).get("on")
    call = call.get("workflow_call") if isinstance(call, dict) else None
    declared = call.get(kind) if isinstance(call, dict) else None
    return declared if isinstance(declared, dict) else None


def _job_problems(document: Document, job: str) -> Iterator[Finding]:
    body, path = document.value["jobs"][job], ("jobs", job)
    yield from _permission_problems(document, body, path)
    for key, kind in (("with", "inputs"), ("secrets", "secrets")):
        declared, passed = _declared(SERVE, kind), body.get(key)
        if declared is None or not isinstance(passed, dict):
            continue
        for name in passed:
            if name not in declared:
                yield _at(document, (*path, key, name), f"serve.yml has no {kind[:-1]} {shown(name)}", meant(name, declared))


def _permission_problems(document: Document, body: dict[str, Any], path: FieldPath) -> Iterator[Finding]:
    """A job's own permissions replace the workflow's; without either, the repository's settings apply."""
    needed = needed_permissions()
    fix = "write\n    permissions:\n" + "\n".join(f"      {name}: {level}" for name, level in needed.items())
    for where, granted in (
        ((*path, "permissions"), body.get("permissions", ...)),
        (("permissions",), document.value.get("permissions", ...)),
    ):
        if granted is ...:
            continue
        if granted == "write-all":
            return
        table = granted if isinstance(granted, dict) else dict.fromkeys(needed, "read") if granted == "read-all" else {}
        missing = [f"{name}: {level}" for name, level in needed.items() if LEVEL.get(str(table.get(name)), 0) < LEVEL[level]]
        if missing:
            line = where if where in document.lines else path
            message = f"job {path[1]} does not grant {', '.join(missing)}, so GitHub does not start serve.yml"
            yield _at(document, line, message, fix)
        return
    yield _at(document, (*path, "uses"), f"job {path[1]} has no permissions, and the default does not include id-token", fix)


def _trigger_problems(document: Document) -> Iterator[Finding]:
    triggers = document.value.get("on")
    names = [triggers] if isinstance(triggers, str) else triggers if isinstance(triggers, (dict, list)) else []
    if "pull_request_target" in names:
        yield _at(
            document,
            ("on", "pull_request_target"),
            "pull_request_target runs a fork's code with this repository's credentials",
            "write pull_request",
        )


def _at(document: Document, path: FieldPath, message: str, fix: str) -> Finding:
    return bad("workflow", f"{document.name}:{document.line(path)}: {message}", fix)
