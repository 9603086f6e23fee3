"""The result files of all jobs of a run, merged: one outcome for each model, and none forgotten.

A build job's file comes from where the model's code ran, so it is read as a stranger's: typed, bounded, and only ever shown. Whose
it is, and of which job, the name of the artifact's folder says, which that code has no part in:

    torchrelay-result-<...>-MODEL-build/MODEL-build.json
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torchrelay.core.files import read_json
from torchrelay.workflow.job_result import SILENT, WORST, Failed, Outcome, mapping, text

MAX_FILE = 4 << 20  # bytes; a model with 1000 samples has some 200 KiB
MAX_FILES = 2000
ARTIFACT = "torchrelay-result-"
UNHAPPY = ("failure", "cancelled")


def load(folder: Path, needs: Any = None) -> tuple[list[Outcome], list[str]]:
    """Read every result file below a folder; also the names of those that are none, or are not what their place says.

    `needs` is GitHub's object of that name, empty outside of a workflow.
    """
    found, bad = [], []
    for path in sorted(folder.rglob("*.json"))[:MAX_FILES]:
        try:
            if path.is_symlink() or path.stat().st_size > MAX_FILE:
                raise ValueError(path)
            model, job = _place(folder, path, mapping(needs))
            told = Outcome.model_validate(read_json(path))
            if told.job != job or (told.model != model and path.parent == folder):
                raise ValueError(path)
            nothing_live = {} if job == "deploy" else dict.fromkeys(("reference", "endpoint", "target", "previous"), "")
            found.append(told.model_copy(update={"model": model, **nothing_live}))
        except (ValueError, OSError, RecursionError):
            bad.append(str(path.relative_to(folder)))
    return found, bad


def _place(folder: Path, path: Path, needs: Mapping[str, Any]) -> tuple[str, str]:
    """Return model and job of a file by its name, and by its folder's. Raises ValueError when they do not tell, or differ.

    Of one artifact alone the runner makes no folder. That is a build job's then: with a deploy job's there would be two.
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
    planned = _planned(needs)
    fitting = [name for name in planned or [model] if artifact.endswith(f"-{name}-{job}")]
    if path.parent.parent != folder or not artifact.startswith(ARTIFACT) or max(fitting, key=len, default="") != model:
        raise ValueError(path)
    return model, job


def unreadable(names: Iterable[str]) -> list[Outcome]:
    """Return a failure for each file that is not a result file: of what it was about nothing is known."""
    told = {
        name: Failed(kind="failed", message=f"{text(name)}: not a result file", fix="look at the job that wrote it")
        for name in names
    }
    return [Outcome(model=f"({text(name)[:4000]})", result="failed", error=error) for name, error in told.items()]


def merged(outcomes: Iterable[Outcome]) -> dict[str, Outcome]:
    """Return one outcome per model, by name: what the deploy job says of it, with what only the build job knows."""
    by_model: dict[str, Outcome] = {}
    for one in sorted(outcomes, key=lambda each: each.job == "deploy"):
        before = by_model.get(one.model)
        if before is None:
            by_model[one.model] = one
            continue
        kept = {name: getattr(before, name) for name in ("version", "image", "samples", "layers", "diff") if not getattr(one, name)}
        worse = max(before, one, key=lambda each: WORST.index(each.result))
        rows = {row.stage: row for row in [*before.stages, *one.stages]}
        kept |= {"result": worse.result, "error": one.error or before.error, "stages": list(rows.values())}
        by_model[one.model] = one.model_copy(update=kept)
    return dict(sorted(by_model.items()))


def completed(by_model: Mapping[str, Outcome], needs: Any) -> dict[str, Outcome]:
    """Add what left no result though a job did not succeed; `needs` is GitHub's object of that name.

    A model of the plan's matrix without a result, or with none of a deploy job that did not succeed, failed. So did a job that
    no model's failure explains: it stands under its own name, in brackets.
    """
    jobs = mapping(needs)
    unhappy = sorted(name for name, job in jobs.items() if mapping(job).get("result") in UNHAPPY)
    if not unhappy:
        return dict(by_model)
    error = Failed(
        stage=text(unhappy[0]),
        kind="interrupted",
        message=f"{text(', '.join(unhappy))}: {SILENT}",
        fix="look at the end of its log",
    )
    found = dict(by_model)
    for name in _planned(jobs):
        one = found.get(name)
        if one is None:
            found[name] = Outcome(model=name, result="failed", error=error)
        elif "deploy" in unhappy and one.job == "build" and one.error is None:
            found[name] = one.model_copy(update={"result": "failed", "error": error.model_copy(update={"stage": "deploy"})})
    if not any(one.error for one in found.values()):
        found[f"({text(unhappy[0])})"] = Outcome(model=f"({text(unhappy[0])[:4000]})", result="failed", error=error)
    return dict(sorted(found.items()))


def _planned(jobs: Mapping[str, Any]) -> list[str]:
    """Return the models of the plan's matrix."""
    try:
        matrix = json.loads(mapping(mapping(jobs.get("plan")).get("outputs")).get("matrix") or "{}")
    except (ValueError, TypeError, RecursionError):
        return []
    include = mapping(matrix).get("include")
    names = [text(mapping(one).get("model")) for one in include] if isinstance(include, list) else []
    return [name for name in names if name]


def worst(outcomes: Iterable[Outcome]) -> str:
    """Return the worst result; empty when there is none."""
    return max((one.result for one in outcomes), key=WORST.index, default="")
