"""`torchrelay report`."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from torchrelay.cli.console import AsJson, begin, described, done, option
from torchrelay.cli.step_summary import append, room
from torchrelay.core import errors, runner
from torchrelay.core.errors import GitHubRefused, InputsInvalid, TorchrelayError
from torchrelay.core.json_text import parse_untrusted
from torchrelay.core.log import log
from torchrelay.core.text import printable
from torchrelay.workflow import run_results, summary
from torchrelay.workflow.comment import CommentForbidden, Comments, pull_request_of
from torchrelay.workflow.job_result import RESULT_KINDS, JobResult


def run(
    results: Annotated[Path, option("results", "Folder of result files, searched to any depth.")],
    comment: Annotated[
        bool, option("comment", "Comment on the pull request that GITHUB_EVENT_PATH names, as GITHUB_TOKEN.")
    ] = False,
    needs: Annotated[
        str,
        option("needs", "GitHub's `needs` as JSON. Used to find models that produced no result. Default: assume none are missing."),
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Combine every model's result into one report.

    Merges the result files, writes the summary and the run's outputs, keeps one comment on the pull request up to date, and fails
    if a model failed.
    """
    begin(as_json=as_json)
    jobs = _parsed(needs)
    if results.exists() and not results.is_dir():  # a missing folder means that no job left a result
        raise InputsInvalid(f"--results: {results} is not a folder", "name the folder that has the result files")
    loaded, unreadable = run_results.load(results, jobs)
    by_model = run_results.completed(run_results.merged([*loaded, *run_results.unreadable(unreadable)]), jobs)
    note = _run_link(os.environ)
    result = {
        **_first(by_model),
        "verdict": run_results.worst(by_model.values()),
        "results": {name: _brief(one) for name, one in by_model.items()},
        "comment": _comment(summary.run_summary(by_model, summary.COMMENT_LIMIT, note)) if comment else "",
    }
    text = summary.run_summary(by_model, room(), note)
    lines = [f"{name}: {one.result}" for name, one in by_model.items()] or ["no model to build"]
    done(result, "\n".join(lines) if append(text) else text.rstrip())
    failed = [one for one in by_model.values() if one.result != "passed"]
    if failed:
        error = _failure(failed)
        sys.stderr.write(described(error))
        runner.failed(error, None)
        raise typer.Exit(error.exit_code)


def _parsed(needs: str) -> Any:
    try:
        return parse_untrusted(needs) if needs else {}
    except ValueError as error:
        raise InputsInvalid("--needs is not JSON", "pass `${{ toJSON(needs) }}`") from error


def _run_link(environment: Mapping[str, str]) -> str:
    server, repository = environment.get("GITHUB_SERVER_URL"), environment.get("GITHUB_REPOSITORY")
    number, run = environment.get("GITHUB_RUN_NUMBER", ""), environment.get("GITHUB_RUN_ID", "")
    if not (server and repository and run.isdecimal()):
        return ""
    commit = environment.get("GITHUB_SHA", "")[:12]
    return f"[run {number if number.isdecimal() else run}]({server}/{repository}/actions/runs/{run}) of `{commit}`"


def _first(by_model: Mapping[str, JobResult]) -> dict[str, str]:
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


def _failure(failed: list[JobResult]) -> TorchrelayError:
    """Return the error of a run: that of the worst model, with its exit code, and the names of all."""
    kinds = {one.kind: one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, TorchrelayError)}
    worst = max(failed, key=lambda one: RESULT_KINDS.index(one.result))
    kind = worst.error.kind if worst.error else worst.result
    names = ", ".join(f"{printable(one.model, 80)} ({one.result})" for one in failed[:20])
    why = f": {printable(worst.error.message, 500)}" if worst.error and worst.error.message else ""
    more = f" and {len(failed) - 20} more" if len(failed) > 20 else ""
    error = TorchrelayError(f"{names}{more}{why}", printable(worst.error.fix, 500) if worst.error else "")
    # How far a silent job came is unknown, and 130 would mean that this command was interrupted.
    known = kinds.get(kind) if kind != errors.Interrupted.kind else None
    error.kind, error.exit_code = (kind, known.exit_code) if known else ("failed", errors.DeployFailed.exit_code)
    return error


def _comment(body: str) -> str:
    """Return the address of the comment; a comment that cannot be written is reported and does not fail the run."""
    try:
        pull_request = pull_request_of(os.environ)
        if pull_request is None:
            log.info("comment: this run does not belong to a pull request, or has no GITHUB_TOKEN")
            return ""
        runner.mask(pull_request.token)
        return Comments(pull_request).put(body)
    except CommentForbidden as error:
        runner.notice(str(error))
    except GitHubRefused as error:
        log.warning("%s", error)
    return ""
