"""The relay: every stage in order; a stage whose result for these very inputs exists already is skipped."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from torchrelay.attestation.dsse import Signer
from torchrelay.core.errors import TorchrelayError
from torchrelay.core.log import log, table
from torchrelay.core.paths import weights_cache
from torchrelay.core.progress import Progress
from torchrelay.core.workspace import Workspace
from torchrelay.image.mar import Archived
from torchrelay.model.model import Model
from torchrelay.model.version import resolved_version
from torchrelay.oci.reference import valid_destination
from torchrelay.stages import archive, attest, build, bundle, check, deploy, diff, fetch, journal, push, verify
from torchrelay.stages.attest import Statement
from torchrelay.stages.build import Built
from torchrelay.stages.bundle import Bundle
from torchrelay.stages.check import Checked
from torchrelay.stages.diff import LiveDiff
from torchrelay.stages.fetch import Fetched
from torchrelay.stages.push import Pushed
from torchrelay.targets import Endpoint, Release, chosen_target, require_registry
from torchrelay.verification.verdict import Verdict

T = TypeVar("T")


@dataclass
class Relay:
    """One run over one model directory or bundle; each stage adds its row to `stages`."""

    folder: Path
    progress: Progress
    update_lock: bool = False
    dry: bool = False
    stages: list[dict[str, Any]] = field(default_factory=list)

    def _run(self, name: str, work: Callable[[], T], row_of: Callable[[T], dict[str, Any]]) -> T:
        result, row = journal.timed(None if self.dry else Workspace(self.folder), name, work, row_of)
        self.stages.append(row)
        log.info("%-8s %6.1f s  %s", name, row["seconds"], "already done" if row.get("skipped") else row.get("said", "done"))
        return result

    def check(self) -> Checked:
        """See `stages.check`."""
        Workspace(self.folder).reject_foreign()
        return self._run(
            "check",
            lambda: check.run(self.folder),
            lambda checked: {
                "said": checked.model.name,
                "warnings": [str(warning) for warning in checked.warnings],
                **checked.executes_code,
            },
        )

    def fetch(self, model: Model) -> Fetched:
        """See `stages.fetch`."""
        return self._run(
            "fetch",
            lambda: fetch.run(self.folder, model, cache=weights_cache(), progress=self.progress, update_lock=self.update_lock),
            lambda fetched: {"sha256": fetched.sha256, "size": fetched.size, "skipped": fetched.cached},
        )

    def archive(self, checked: Checked, fetched: Fetched, output: Path | None = None) -> Archived:
        """See `stages.archive`."""
        version = resolved_version(checked.model, self.folder)
        return self._run(
            "archive",
            lambda: archive.run(self.folder, checked.model, fetched, version, self.progress, output=output),
            lambda archived: archived.summary(),
        )

    def build(self, checked: Checked, archived: Archived) -> Built:
        """See `stages.build`."""
        return self._run(
            "build",
            lambda: build.run(self.folder, checked.model, archived, checked.samples, self.progress),
            lambda built: built.summary(),
        )

    def built(self, checked: Checked) -> Built:
        """Fetch, archive and build."""
        return self.build(checked, self.archive(checked, self.fetch(checked.model)))

    def verify(self, checked: Checked) -> Verdict:
        """See `stages.verify`. Raises GateFailed when the verdict is not `passed`."""
        begin = time.time()
        verdict = self._run(
            "verify",
            lambda: verify.run(self.folder, checked.model, checked.samples, self.progress),
            lambda verdict: {
                "result": verdict.result,
                "config": verdict.config,
                "load_s": verdict.load_s,
                "skipped": verify.is_older(self.folder, begin),
                "said": verdict.result,
            },
        )
        show(verdict)
        try:
            verify.require_passed(verdict, checked.samples)
        except TorchrelayError as error:
            error.stage = "verify"
            raise
        return verdict

    def diff(self, live_url: str) -> LiveDiff:
        """See `stages.diff`."""
        return self._run(
            "diff",
            lambda: diff.run(self.folder, live_url),
            lambda compared: {
                "said": compared.reason or f"{compared.changed} of {len(compared.samples)} answers differ",
                "url": compared.url,
            },
        )

    def bundle(self, output: Path) -> Bundle:
        """See `stages.bundle`; the bundle's own row travels in it too."""
        written = self._run(
            "bundle",
            lambda: bundle.run(self.folder, output, self.progress),
            lambda written: {"said": written.digest, **written.summary()},
        )
        journal.hand_over(Workspace(self.folder), output / bundle.STAGES)
        return written

    def push(self, repository: str, *, create: bool, bundle: Bundle | None = None) -> Pushed:
        """See `stages.push`."""

        def work() -> Pushed:
            if bundle is not None:
                return push.run_bundle(bundle, repository, self.progress, create=create)
            return push.run(self.folder, repository, self.progress, create=create)

        return self._run("push", work, lambda pushed: pushed.summary())

    def attest(self, bundle: Bundle, reference: str, signer: Signer) -> list[Statement]:
        """See `stages.attest`."""
        return self._run(
            "attest",
            lambda: attest.run(bundle, reference, signer, self.progress),
            lambda stored: {"reference": reference, "skipped": all(one.skipped for one in stored)},
        )

    def deploy(self, model: Model, target: str, release: Release, verify_key: str | None = None) -> Endpoint:
        """See `stages.deploy`. With a public key, only an image whose passing verdict it signed."""

        def work() -> Endpoint:
            if verify_key:
                deploy.require_attested(model, release, verify_key)
            return deploy.run(self.folder, model, target, release, self.progress)

        return self._run("deploy", work, lambda endpoint: {"said": endpoint.url, "result": "passed", **endpoint.summary()})


def deploy_plan(model: Model, target: str | None, *, bundled: bool = False) -> list[str]:
    """Return what deploy would do, for --dry-run."""
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


def run(
    model_dir: Path,
    progress: Progress,
    *,
    target: str | None,
    repository: str | None,
    create_repository: bool = False,
    update_lock: bool = False,
) -> dict[str, Any]:
    """Run the stages and return what each did.

    Without `target` the first one in model.yaml is used (docker when it names none); `local` needs neither image nor registry.
    The model's name is added to a `repository` that ends in /. Raises any stage's error.
    """
    relay = Relay(model_dir, progress, update_lock)
    checked = relay.check()
    chosen = chosen_target(checked.model, target, repository)
    require_registry(chosen, repository)
    destination = valid_destination(repository, checked.model.name) if repository else ""
    with Workspace(model_dir).lock():
        archived = relay.archive(checked, relay.fetch(checked.model))
        built = pushed = None
        if chosen != "local":
            built = relay.build(checked, archived)
            relay.verify(checked)
            if destination:
                pushed = relay.push(destination, create=create_repository)
        release = deploy.release_of(model_dir, checked, chosen, archived, built, pushed)
        endpoint = relay.deploy(checked.model, chosen, release)
    return {
        "model": checked.model.name,
        "version": archived.version,
        "target": chosen,
        "endpoint": endpoint.summary(),
        "image": built.image.digest if built else None,
        "pushed": pushed.summary() if pushed else None,
        "stages": relay.stages,
    }


def plan(model: Model, target: str | None, repository: str | None) -> list[str]:
    """Return the stages that relay would run, for --dry-run."""
    chosen = chosen_target(model, target, repository)
    require_registry(chosen, repository)
    pushing = [f"push to {valid_destination(repository, model.name)}"] if repository else []
    image = [] if chosen == "local" else ["build", "verify", *pushing]
    return ["check", "fetch", "archive", *image, *deploy_plan(model, target)]


def deploy_only(model_dir: Path, progress: Progress, *, target: str | None, verify_key: str | None = None) -> dict[str, Any]:
    """Deploy what was verified (and pushed, if it was), making again only what is missing."""
    relay = Relay(model_dir, progress)
    checked = relay.check()
    chosen = chosen_target(checked.model, target)
    with Workspace(model_dir).lock():
        archived = relay.archive(checked, relay.fetch(checked.model))
        built = relay.build(checked, archived) if chosen != "local" else None
        pushed = push.last_push(Workspace(model_dir), built.image.config_digest if built else None)
        release = deploy.release_of(model_dir, checked, chosen, archived, built, pushed)
        endpoint = relay.deploy(checked.model, chosen, release, verify_key)
    return {"target": chosen, "endpoint": endpoint.summary(), "result": "passed", "stages": relay.stages}


def deploy_bundle(bundle: Bundle, progress: Progress, *, target: str | None, verify_key: str | None = None) -> dict[str, Any]:
    """Deploy the image of a bundle; nothing else of the model is read, and none of its code runs.

    Raises DeployFailed for the local target, which serves archives, NotAttested, and what `stages.deploy.run` raises.
    """
    chosen = chosen_target(bundle.model, target, bundled=True)
    relay = Relay(bundle.folder, progress)
    with Workspace(bundle.folder).lock():
        Workspace(bundle.folder).drop_foreign()
        pushed = push.last_push(Workspace(bundle.folder), bundle.image.config_digest)
        endpoint = relay.deploy(bundle.model, chosen, deploy.release_of_bundle(bundle, pushed), verify_key)
    return {"target": chosen, "endpoint": endpoint.summary(), "result": "passed", "stages": relay.stages}
