"""The relay: every stage in order, each skipped when its result for these very inputs is already there."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from torchrelay.core.errors import TorchrelayError
from torchrelay.core.log import log, table
from torchrelay.core.paths import weights_cache
from torchrelay.core.progress import Progress
from torchrelay.core.workspace import Workspace
from torchrelay.image.mar import Archived
from torchrelay.model.model import Model
from torchrelay.stages import bundle as bundles
from torchrelay.stages import deploy as deploying
from torchrelay.stages import journal as stages
from torchrelay.stages import verify as verifying
from torchrelay.stages.archive import archive
from torchrelay.stages.build import Built, build
from torchrelay.stages.bundle import Bundle
from torchrelay.stages.check import Checked, check, resolved_version
from torchrelay.stages.diff import Diff, diff
from torchrelay.stages.fetch import Fetched, fetch
from torchrelay.stages.push import Pushed, last_push, push, push_bundle
from torchrelay.targets import Endpoint, Release, chosen_target, require_registry
from torchrelay.verification.verdict import Verdict

T = TypeVar("T")


@dataclass
class Relay:
    """One run over one model directory; each stage's result is kept for those after it."""

    model_dir: Path
    progress: Progress
    update_lock: bool = False
    dry: bool = False
    stages: list[dict[str, Any]] = field(default_factory=list)

    def _run(self, name: str, work: Callable[[], T], told: Callable[[T], dict[str, Any]]) -> T:
        result, row = stages.timed(None if self.dry else Workspace(self.model_dir), name, work, told)
        self.stages.append(row)
        log.info("%-8s %6.1f s  %s", name, row["seconds"], "already done" if row.get("skipped") else row.get("said", "done"))
        return result

    def check(self) -> Checked:
        """See torchrelay.check."""
        Workspace(self.model_dir).own()
        return self._run("check", lambda: check(self.model_dir), lambda done: {"warnings": [str(w) for w in done.warnings]})

    def fetch(self, model: Model) -> Fetched:
        """See torchrelay.fetch."""
        return self._run(
            "fetch",
            lambda: fetch(self.model_dir, model, cache=weights_cache(), progress=self.progress, update_lock=self.update_lock),
            lambda done: {"sha256": done.sha256, "size": done.size, "skipped": done.cached},
        )

    def archive(self, checked: Checked, fetched: Fetched, output: Path | None = None) -> Archived:
        """See torchrelay.archive."""
        version = resolved_version(checked.model, self.model_dir)
        return self._run(
            "archive",
            lambda: archive(self.model_dir, checked.model, fetched, version, self.progress, output=output),
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
        try:
            verifying.require_passed(verdict, checked.samples)
        except TorchrelayError as error:
            error.stage = "verify"
            raise
        return verdict

    def diff(self, live_url: str) -> Diff:
        """See torchrelay.diff."""

        def told(made: Diff) -> dict[str, Any]:
            return {"said": made.reason or f"{made.summary()['changed']} of {len(made.samples)} answers differ", "url": made.url}

        return self._run("diff", lambda: diff(self.model_dir, live_url), told)

    def push(self, repository: str, *, create: bool, bundle: Bundle | None = None) -> Pushed:
        """See torchrelay.push."""

        def work() -> Pushed:
            if bundle is not None:
                return push_bundle(bundle, repository, self.progress, create=create)
            return push(self.model_dir, repository, self.progress, create=create)

        return self._run("push", work, lambda done: done.summary())

    def deploy(self, model: Model, target: str, release: Release, verify_key: str | None = None) -> Endpoint:
        """See torchrelay.deploy."""

        def work() -> Endpoint:
            if verify_key:
                deploying.demand_attested(model, release, verify_key)
            return deploying.deploy_stage(self.model_dir, model, target, release, self.progress)

        return self._run("deploy", work, lambda done: {"said": done.url, "result": "passed", **done.summary()})

    def bundle(self, folder: Path) -> Bundle:
        """See torchrelay.bundle."""
        return self._run(
            "bundle",
            lambda: bundles.write(self.model_dir, folder, self.progress),
            lambda done: {"said": done.digest, **done.summary()},
        )


def deploy_plan(model: Model, target: str | None, *, bundled: bool = False) -> list[str]:
    """Say what deploy would do, for --dry-run."""
    chosen = chosen_target(model, target, bundled=bundled)
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
    require_registry(chosen, repository)
    fetched = run.fetch(checked.model)
    archived = run.archive(checked, fetched)
    built = pushed = None
    if chosen != "local":
        built = run.build(checked, archived)
        run.verify(checked)
        if repository:
            pushed = run.push(repository, create=create_repository)
    release = deploying.release_of(model_dir, checked, chosen, archived, built, pushed)
    endpoint = run.deploy(checked.model, chosen, release)
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
    chosen = chosen_target(model, target, repository)
    require_registry(chosen, repository)
    image = [] if chosen == "local" else ["build", "verify", *([f"push to {repository}"] if repository else [])]
    return ["check", "fetch", "archive", *image, *deploy_plan(model, target)]


def deploy_only(model_dir: Path, progress: Progress, *, target: str | None, verify_key: str | None = None) -> dict[str, Any]:
    """Deploy what was proved (and pushed, if it was), making again only what is missing."""
    run = Relay(model_dir, progress)
    checked = run.check()
    chosen = chosen_target(checked.model, target)
    archived = run.archive(checked, run.fetch(checked.model))
    built = run.build(checked, archived) if chosen != "local" else None
    pushed = last_push(Workspace(model_dir), built.image.config_digest if built else None)
    release = deploying.release_of(model_dir, checked, chosen, archived, built, pushed)
    endpoint = run.deploy(checked.model, chosen, release, verify_key)
    return {"target": chosen, "endpoint": endpoint.summary(), "result": "passed", "stages": run.stages}


def push_only(folder: Path, repository: str, progress: Progress, *, create: bool, bundle: Bundle | None = None) -> Pushed:
    """Push what was proved: out of a model directory, or the image of a bundle."""
    run = Relay(folder, progress)
    return run.push(repository, create=create, bundle=bundle)


def bundle_only(model_dir: Path, folder: Path, progress: Progress) -> Bundle:
    """Write what was proved as a bundle."""
    run = Relay(model_dir, progress)
    written = run.bundle(folder)
    stages.hand_over(Workspace(model_dir), folder / bundles.STAGES)  # with the row of the bundle itself
    return written


def deploy_bundle(bundle: Bundle, progress: Progress, *, target: str | None, verify_key: str | None = None) -> dict[str, Any]:
    """Deploy the image of a bundle; nothing else of the model is read, and none of its code is run.

    Raises DeployFailed for the local target, which serves archives, NotAttested, and what `deploy_stage` raises.
    """
    chosen = chosen_target(bundle.model, target, bundled=True)
    run = Relay(bundle.folder, progress)
    pushed = last_push(Workspace(bundle.folder), bundle.image.config_digest)
    endpoint = run.deploy(bundle.model, chosen, deploying.release_of_bundle(bundle, pushed), verify_key)
    return {"target": chosen, "endpoint": endpoint.summary(), "result": "passed", "stages": run.stages}
