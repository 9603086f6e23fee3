"""The verbs that tell what came of a run: summary for one model in one job, report for all of them."""

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from torchrelay.cli.console import DEFAULT_DIR, AsJson, Bundle, ModelDir, app, begin, done, option
from torchrelay.core import errors, runner
from torchrelay.core.errors import GitHubRefused, InputsInvalid, TorchrelayError
from torchrelay.core.log import log

if TYPE_CHECKING:
    from torchrelay.workflow.job_result import JobResult

JobStatus = Annotated[
    str, option("job-status", "GitHub's status of the job: tells a job that was killed from one that passed. Default: success.")
]
Needs = Annotated[
    str, option("needs", "GitHub's `needs` as JSON: tells which models left no result. Default: those that did are all.")
]


@app.command()
def summary(
    output: Annotated[Path, option("output", "Result file to write.")],
    model_dir: ModelDir = DEFAULT_DIR,
    bundle: Bundle = None,
    job_status: JobStatus = "",
    as_json: AsJson = False,
) -> None:
    """Tell what came of a model.

    Writes the job's summary on GitHub, prints it elsewhere, and leaves the result file that report merges. Does not fail for a
    model that did.
    """
    from torchrelay.workflow import job_result  # noqa: PLC0415 -- each verb imports only what it needs: --help stays fast
    from torchrelay.workflow import summary as summaries  # noqa: PLC0415

    begin(as_json=as_json)
    found = job_result.gather(bundle or model_dir, bundle=bundle is not None, job_status=job_status)
    job_result.save(output, found)
    text = summaries.model_summary(found, _room())
    done(found.model_dump(), f"{found.model} {found.version}: {found.result}" if _summarised(text) else text.rstrip())


@app.command()
def report(
    results: Annotated[Path, option("results", "Folder of result files, searched to any depth.")],
    comment: Annotated[
        bool, option("comment", "Comment on the pull request that GITHUB_EVENT_PATH names, as GITHUB_TOKEN.")
    ] = False,
    needs: Needs = "",
    as_json: AsJson = False,
) -> None:
    """Tell what came of all models.

    Merges the result files, writes the summary and the run's outputs, keeps one comment on the pull request up to date, and fails
    when a model did.
    """
    from torchrelay.workflow import run_results  # noqa: PLC0415 -- as in summary
    from torchrelay.workflow import summary as summaries  # noqa: PLC0415

    begin(as_json=as_json)
    jobs = _parsed(needs)
    found, bad = run_results.load(results, jobs)
    by_model = run_results.completed(run_results.merged([*found, *run_results.unreadable(bad)]), jobs)
    note = _run_link(os.environ)
    told = {
        **_first(by_model),
        "verdict": run_results.worst(by_model.values()),
        "results": {name: _brief(one) for name, one in by_model.items()},
        "comment": _comment(summaries.run_summary(by_model, summaries.COMMENT_LIMIT, note)) if comment else "",
    }
    text = summaries.run_summary(by_model, _room(), note)
    lines = [f"{name}: {one.result}" for name, one in by_model.items()] or ["no model to build"]
    done(told, "\n".join(lines) if _summarised(text) else text.rstrip())
    failed = [one for one in by_model.values() if one.result != "passed"]
    if failed:
        error = _failure(failed)
        sys.stderr.write(f"torchrelay: {error}\n")
        runner.failed(error, None)
        raise typer.Exit(error.exit_code)


def _room() -> int:
    """Return how much fits into the step's summary beside what is there."""
    from torchrelay.workflow.summary import STEP_LIMIT  # noqa: PLC0415 -- as in summary

    file = os.environ.get("GITHUB_STEP_SUMMARY")
    there = Path(file).stat().st_size if file and Path(file).is_file() else 0
    return max(STEP_LIMIT - there, 1000)


def _summarised(text: str) -> bool:
    """Append to the step's summary; False where there is none."""
    file = os.environ.get("GITHUB_STEP_SUMMARY")
    if not file:
        return False
    with Path(file).open("a", encoding="utf-8", errors="backslashreplace", newline="") as opened:
        opened.write(text)
    return True


def _parsed(needs: str) -> Any:
    try:
        return json.loads(needs) if needs else {}
    except (ValueError, RecursionError) as error:
        raise InputsInvalid("--needs is not JSON", "pass `${{ toJSON(needs) }}`") from error


def _run_link(environment: Mapping[str, str]) -> str:
    server, repository = environment.get("GITHUB_SERVER_URL"), environment.get("GITHUB_REPOSITORY")
    number, run = environment.get("GITHUB_RUN_NUMBER", ""), environment.get("GITHUB_RUN_ID", "")
    if not (server and repository and run.isdecimal()):
        return ""
    commit = environment.get("GITHUB_SHA", "")[:12]
    return f"[run {number if number.isdecimal() else run}]({server}/{repository}/actions/runs/{run}) of `{commit}`"


def _first(by_model: "Mapping[str, JobResult]") -> dict[str, str]:
    """Return endpoint and image of the first model by name."""
    first = next(iter(by_model.values()), None)
    return {"endpoint": first.endpoint if first else "", "image": first.reference if first else ""}


def _brief(one: "JobResult") -> dict[str, Any]:
    return {
        "result": one.result,
        "version": one.version,
        "image": one.reference,
        "digest": one.image,
        "endpoint": one.endpoint,
        "target": one.target,
        "error": {"stage": one.error.stage, "kind": one.error.kind, "message": one.error.message[:1000]} if one.error else None,
    }


def _failure(failed: "list[JobResult]") -> TorchrelayError:
    """Return the error of a run: that of the worst model, with its exit code, and the names of all."""
    from torchrelay.core.text import printable  # noqa: PLC0415
    from torchrelay.workflow.job_result import RESULT_KINDS  # noqa: PLC0415 -- as in summary

    kinds = {one.kind: one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, TorchrelayError)}
    worst = max(failed, key=lambda one: RESULT_KINDS.index(one.result))
    kind = worst.error.kind if worst.error else worst.result
    names = ", ".join(f"{printable(one.model, 80)} ({one.result})" for one in failed[:20])
    why = f": {printable(worst.error.message, 500)}" if worst.error and worst.error.message else ""
    error = TorchrelayError(f"{names}{'' if len(failed) <= 20 else f' and {len(failed) - 20} more'}{why}")
    # Nobody knows how far a job came that said nothing, and 130 would tell that this command was interrupted.
    known = kinds.get(kind) if kind != errors.Interrupted.kind else None
    error.kind, error.exit_code = (kind, known.exit_code) if known else ("failed", errors.DeployFailed.exit_code)
    return error


def _comment(body: str) -> str:
    """Return the address of the comment; what prevents it is told, and is no failure of the run."""
    from torchrelay.workflow import comment as comments  # noqa: PLC0415 -- as in summary

    try:
        pull_request = comments.pull_request_of(os.environ)
        if pull_request is None:
            log.info("comment: this run is of no pull request, or has no GITHUB_TOKEN")
            return ""
        runner.mask(pull_request.token)
        return comments.Comments(pull_request).put(body)
    except comments.CommentForbidden as error:
        runner.notice(str(error))
    except GitHubRefused as error:
        log.warning("%s", error)
    return ""
