"""Merges the result files of all jobs of a run: one result per model, and no model of the plan is missing.

A build job's file comes from a machine that ran the model's code, so it is untrusted: typed, bounded and only displayed. The model
and the job of a file are taken from the name of the artifact's folder, which that code cannot change:

    torchrelay-result-<...>-MODEL-build/MODEL-build.json
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torchrelay.core.files import read_json
from torchrelay.core.json_text import parse_untrusted
from torchrelay.workflow.job_result import NO_REASON, RESULT_KINDS, Failure, JobResult, mapping, text

MAX_FILE = 4 << 20  # bytes; a model with 1000 samples has about 200 KiB
MAX_FILES = 2000
ARTIFACT = "torchrelay-result-"
UNSUCCESSFUL = ("failure", "cancelled")


def load(folder: Path, needs: Any = None) -> tuple[list[JobResult], list[str]]:
    """Read every result file below a folder; also return the names of invalid files and of those that contradict their place.

    `needs` is GitHub's object of that name, empty outside a workflow.
    """
    results, invalid = [], []
    for path in sorted(folder.rglob("*.json"))[:MAX_FILES]:
        try:
            if path.is_symlink() or path.stat().st_size > MAX_FILE:
                raise ValueError(path)
            model, job = _model_and_job(folder, path, mapping(needs))
            result = JobResult.model_validate(read_json(path))
            if result.job != job or (result.model != model and path.parent == folder):
                raise ValueError(path)
            nothing_live = {} if job == "deploy" else dict.fromkeys(("reference", "endpoint", "target", "previous"), "")
            results.append(result.model_copy(update={"model": model, **nothing_live}))
        except (ValueError, OSError, RecursionError):
            invalid.append(str(path.relative_to(folder)))
    return results, invalid


def _model_and_job(folder: Path, path: Path, needs: Mapping[str, Any]) -> tuple[str, str]:
    """Return model and job from the names of a file and its folder. Raises ValueError if they are missing or disagree.

    The runner creates no folder for a single artifact. That one is a build job's: with a deploy job there would be two.
    """
    model, _, job = path.stem.rpartition("-")
    if not model or job not in ("build", "deploy"):
        raise ValueError(path)
    if job == "deploy" and mapping(needs.get("deploy")).get("result") == "skipped":
        raise ValueError(path)
    if path.parent == folder:
        if job == "deploy" and needs:
            raise ValueError(path)
        return model, job
    artifact = path.parent.name
    fitting = [name for name in _planned(needs) or [model] if artifact.endswith(f"-{name}-{job}")]
    if path.parent.parent != folder or not artifact.startswith(ARTIFACT) or max(fitting, key=len, default="") != model:
        raise ValueError(path)
    return model, job


def unreadable(names: Iterable[str]) -> list[JobResult]:
    """Return a failure for each invalid result file; its model is unknown."""
    errors = {
        name: Failure(kind="failed", message=f"{text(name)}: not a valid result file", fix="read the log of the job that wrote it")
        for name in names
    }
    return [JobResult(model=f"({text(name)[:4000]})", result="failed", error=error) for name, error in errors.items()]


def merged(results: Iterable[JobResult]) -> dict[str, JobResult]:
    """Return one result per model, by name: the deploy job's, completed with the facts that only the build job has."""
    by_model: dict[str, JobResult] = {}
    for result in sorted(results, key=lambda each: each.job == "deploy"):
        before = by_model.get(result.model)
        if before is None:
            by_model[result.model] = result
            continue
        facts = ("version", "image", "samples", "layers", "diff")
        update: dict[str, Any] = {name: getattr(before, name) for name in facts if not getattr(result, name)}
        worse = max(before, result, key=lambda each: RESULT_KINDS.index(each.result))
        rows = {row.stage: row for row in [*before.stages, *result.stages]}
        update |= {"result": worse.result, "error": result.error or before.error, "stages": list(rows.values())}
        by_model[result.model] = result.model_copy(update=update)
    return dict(sorted(by_model.items()))


def completed(by_model: Mapping[str, JobResult], needs: Any) -> dict[str, JobResult]:
    """Add failures for everything that a job which did not succeed left without a result; `needs` is GitHub's object of that name.

    A model of the plan without a result, or without the result of a deploy job that did not succeed, counts as failed. A job whose
    failure no model explains appears under its own name, in brackets.
    """
    jobs = mapping(needs)
    unsuccessful = sorted(name for name, job in jobs.items() if mapping(job).get("result") in UNSUCCESSFUL)
    if not unsuccessful:
        return dict(by_model)
    error = Failure(
        stage=text(unsuccessful[0]),
        kind="interrupted",
        message=f"{text(', '.join(unsuccessful))}: {NO_REASON}",
        fix="read the end of the job's log",
    )
    results = dict(by_model)
    for name in _planned(jobs):
        result = results.get(name)
        if result is None:
            results[name] = JobResult(model=name, result="failed", error=error)
        elif "deploy" in unsuccessful and result.job == "build" and result.error is None:
            results[name] = result.model_copy(update={"result": "failed", "error": error.model_copy(update={"stage": "deploy"})})
    if not any(result.error for result in results.values()):
        model = f"({text(unsuccessful[0])[:4000]})"
        results[model] = JobResult(model=model, result="failed", error=error)
    return dict(sorted(results.items()))


def _planned(jobs: Mapping[str, Any]) -> list[str]:
    """Return the models in the plan's matrix."""
    try:
        matrix = parse_untrusted(mapping(mapping(jobs.get("plan")).get("outputs")).get("matrix") or "{}")
    except (ValueError, TypeError):
        return []
    include = mapping(matrix).get("include")
    names = [text(mapping(row).get("model")) for row in include] if isinstance(include, list) else []
    return [name for name in names if name]


def worst(results: Iterable[JobResult]) -> str:
    """Return the worst result; "" if there is none."""
    return max((result.result for result in results), key=RESULT_KINDS.index, default="")
