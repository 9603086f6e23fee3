"""The relay: every stage in order, each skipped when its result for these very inputs is already there."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from torchrelay import deploy as deploying
from torchrelay import stages
from torchrelay import verify as verifying
from torchrelay.archive import Archived, archive
from torchrelay.build import Built, build
from torchrelay.check import Checked, check, resolved_version
from torchrelay.errors import DeployFailed, TorchrelayError
from torchrelay.fetch import Fetched, fetch
from torchrelay.layout import cache_dir
from torchrelay.model import Model
from torchrelay.push import Pushed, push
from torchrelay.report import Progress, log, table
from torchrelay.targets import TARGETS
from torchrelay.verdict import Verdict
from torchrelay.wording import printable
from torchrelay.workspace import Workspace, read_json

T = TypeVar("T")


@dataclass
class Relay:
    """One run over one model directory; each stage's result is kept for those after it."""

    model_dir: Path
    progress: Progress
    update_lock: bool = False
    stages: list[dict[str, Any]] = field(default_factory=list)

    def _run(self, name: str, work: Callable[[], T], told: Callable[[T], dict[str, Any]]) -> T:
        began, begin = time.time(), time.monotonic()
        try:
            result = work()
        except TorchrelayError as error:
            error.stage = error.stage or name
            raise
        row = {"stage": name, "seconds": round(time.monotonic() - begin, 3), "began": round(began, 3), **told(result)}
        self.stages.append(row)
        stages.record(Workspace(self.model_dir), {"skipped": False, **row})
        log.info("%-8s %6.1f s  %s", name, row["seconds"], "already done" if row.get("skipped") else row.get("said", "done"))
        return result

    def check(self) -> Checked:
        """See torchrelay.check."""
        return self._run("check", lambda: check(self.model_dir), lambda done: {"warnings": [str(w) for w in done.warnings]})

    def fetch(self, checked: Checked) -> Fetched:
        """See torchrelay.fetch."""
        return self._run(
            "fetch",
            lambda: fetch(self.model_dir, checked.model, cache=cache_dir(), progress=self.progress, update_lock=self.update_lock),
            lambda done: {"sha256": done.sha256, "size": done.size, "skipped": done.cached},
        )

    def archive(self, checked: Checked, fetched: Fetched) -> Archived:
        """See torchrelay.archive."""
        version = resolved_version(checked.model, self.model_dir)
        return self._run(
            "archive",
            lambda: archive(self.model_dir, checked.model, fetched, version, self.progress),
            lambda done: done.summary(),
        )

    def build(self, checked: Checked, archived: Archived) -> Built:
        """See torchrelay.build."""
        return self._run(
            "build",
            lambda: build(self.model_dir, checked.model, archived, checked.samples, self.progress),
            lambda done: done.summary(),
        )

    def verify(self, checked: Checked) -> Verdict:
        """See torchrelay.verify. Raises GateFailed when the verdict is not `passed`."""
        begin = time.time()
        verdict = self._run(
            "verify",
            lambda: verifying.verify(self.model_dir, checked.model, checked.samples, self.progress),
            lambda done: {
                "result": done.result,
                "config": done.config,
                "load_s": done.load_s,
                "skipped": verifying.is_older(self.model_dir, begin),
                "said": done.result,
            },
        )
        show(verdict)
        verifying.require_passed(verdict)
        return verdict

    def push(self, repository: str, *, create: bool) -> Pushed:
        """See torchrelay.push."""
        return self._run(
            "push", lambda: push(self.model_dir, repository, self.progress, create=create), lambda done: done.summary()
        )

    def deploy(self, checked: Checked, target: str, archived: Archived, built: Built | None, pushed: Pushed | None) -> Any:
        """See torchrelay.deploy."""
        return self._run(
            "deploy",
            lambda: deploying.deploy_stage(self.model_dir, checked, target, archived, built, pushed, self.progress),
            lambda done: {"said": done.url, **done.summary()},
        )


def chosen_target(model: Model, target: str | None, repository: str | None = None) -> str:
    """Return where a model goes: the named target, else the first that model.yaml names.

    Raises DeployFailed for a target that is not there (yet), and for a push with the local one, which builds nothing.
    """
    chosen = target or model.first_target
    if chosen not in TARGETS:
        raise DeployFailed(
            f"nothing is deployed to {printable(chosen)!r} yet", f"use --target with one of {', '.join(sorted(TARGETS))}"
        )
    if chosen == "local" and repository:
        raise DeployFailed(
            "the local target builds no image, so there is nothing to push", "leave --repository out, or use --target docker"
        )
    return chosen


def deploy_plan(model: Model, target: str | None) -> list[str]:
    """Say what deploy would do, for --dry-run."""
    chosen = chosen_target(model, target)
    return [f"start {model.name} on {chosen}, replay its samples there, switch to it, and stop what ran before"]


def show(verdict: Verdict) -> None:
    """Print the verdict as a table on stderr."""
    rows = [
        [
            result.name,
            "passed" if result.passed else "FAILED",
            "-" if result.alone_ms is None else f"{result.alone_ms:.1f}",
            f"{max(result.together_ms):.1f}" if result.together_ms else "-",
            "\n".join(result.differences[:3]),
        ]
        for result in verdict.samples
    ]
    if rows:
        title = f"{verdict.model} {verdict.version}: {verdict.result}"
        table(title, ["sample", "verdict", "alone ms", "slowest of many ms", "differences"], rows)


def relay(
    model_dir: Path,
    progress: Progress,
    *,
    target: str | None,
    repository: str | None,
    create_repository: bool = False,
    update_lock: bool = False,
) -> dict[str, Any]:
    """Run the stages and return what each did.

    Without `target` the first one that model.yaml declares is taken (docker when it declares none); `local` needs neither image
    nor registry. Raises any stage's error.
    """
    run = Relay(model_dir, progress, update_lock)
    checked = run.check()
    chosen = chosen_target(checked.model, target, repository)
    fetched = run.fetch(checked)
    archived = run.archive(checked, fetched)
    built = pushed = None
    if chosen != "local":
        built = run.build(checked, archived)
        run.verify(checked)
        if repository:
            pushed = run.push(repository, create=create_repository)
    endpoint = run.deploy(checked, chosen, archived, built, pushed)
    return {
        "model": checked.model.name,
        "version": archived.version,
        "target": chosen,
        "endpoint": endpoint.summary(),
        "image": built.image.digest if built else None,
        "pushed": pushed.summary() if pushed else None,
        "stages": run.stages,
    }


def relay_plan(model: Model, target: str | None, repository: str | None) -> list[str]:
    """Say which stages relay would run, for --dry-run."""
    local = chosen_target(model, target, repository) == "local"
    image = [] if local else ["build", "verify", *([f"push to {repository}"] if repository else [])]
    return ["check", "fetch", "archive", *image, *deploy_plan(model, target)]


def deploy_only(model_dir: Path, progress: Progress, *, target: str | None) -> dict[str, Any]:
    """Deploy what was proved (and pushed, if it was), making again only what is missing."""
    run = Relay(model_dir, progress)
    checked = run.check()
    chosen = chosen_target(checked.model, target)
    archived = run.archive(checked, run.fetch(checked))
    built = run.build(checked, archived) if chosen != "local" else None
    endpoint = run.deploy(checked, chosen, archived, built, _pushed(model_dir, built))
    return {"target": chosen, "endpoint": endpoint.summary(), "stages": run.stages}


def _pushed(model_dir: Path, built: Built | None) -> Pushed | None:
    """Return the last push, when it was of this image."""
    record = read_json(Workspace(model_dir).push_record)
    try:
        pushed = Pushed(**record)
    except TypeError:
        return None
    return pushed if built and pushed.config_digest == built.image.config_digest else None
