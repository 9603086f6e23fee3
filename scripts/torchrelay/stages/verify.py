"""Verify: starts the image as it will run, but without a network, and compares the answer to every sample with the expected one.

The container gets no network, a read-only root with a writable /tmp, no root user, no capabilities and the declared CPU and memory.
Each sample is sent alone, then all of them several at a time, so that they meet in batches. The requests are sent from a container
of the trusted runtime image that shares the model's loopback interface and nothing else: no program of the verified image reports
its own answers. Only readiness is asked inside it, where a lie gains nothing: the samples follow.
"""

import json
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchrelay.core.errors import GateFailed, NotVerified
from torchrelay.core.log import log
from torchrelay.core.paths import weights_cache
from torchrelay.core.progress import Progress
from torchrelay.core.workspace import Workspace
from torchrelay.docker.container import hardened, local_tag
from torchrelay.docker.daemon import daemon, load
from torchrelay.docker.scratch import scratch_container
from torchrelay.image.runtime import trusted_runtime
from torchrelay.model.model import Model
from torchrelay.model.samples import Sample
from torchrelay.model.version import resolved_version
from torchrelay.oci.image import load_image
from torchrelay.stages import archive, build, fetch
from torchrelay.verification import diagnosis, kept_answers
from torchrelay.verification.outside import outside_prober
from torchrelay.verification.prober import ProbeAnswer, ProbeRequest
from torchrelay.verification.ready import START_MARGIN_S, container_log, killed_for_memory, wait_container_ready
from torchrelay.verification.replay import Replay, answer_timeout_s, at_once, conditions, replay, samples_digest
from torchrelay.verification.verdict import Verdict, failed_samples, read_verdict, save_verdict

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.containers import Container


def run(model_dir: Path, model: Model, samples: list[Sample], progress: Progress) -> Verdict:
    """Verify the built image and write verdict.json.

    Returns the verdict, passed or failed. Raises NotVerified when there is nothing to verify, DockerUnavailable, BuildFailed.
    Without the runtime image on this machine, it is built first.
    """
    begin = time.monotonic()
    concurrency = at_once(model)
    workspace = Workspace(model_dir)
    loaded = load_image(workspace.image_record)
    if loaded is None:
        raise NotVerified(f"{model_dir}: there is no built image", "run `torchrelay build` first")
    image, _ = loaded
    digest, under = samples_digest(samples), conditions(model, concurrency)
    known = read_verdict(workspace)
    same = known and (known.config, known.samples_digest, known.conditions) == (image.config_digest, digest, under)
    if known and same and known.result == "passed" and kept_answers.load(workspace, image.config_digest) is not None:
        return known
    common: dict[str, Any] = {
        "model": model.name,
        "version": image.config["config"]["Labels"]["org.opencontainers.image.version"],
        "image": image.digest,
        "config": image.config_digest,
        "samples_digest": digest,
        "conditions": under,
        "concurrency": concurrency,
    }
    with daemon() as client:
        load(client, image, local_tag(model.name, image), progress)
        prober_image = trusted_runtime(client, model.device, progress)
        load_s = time.monotonic() - begin
        settings = hardened(model, "", {"org.torchrelay.verify": model.name})
        with scratch_container(client, model_dir, f"verify-{model.name}", image.config_digest, settings) as container:
            container.start()
            container.reload()
            fields, answers = _replayed(client, model_dir, container, model, samples, prober_image)
    kept_answers.save(workspace, image.config_digest, answers)
    verdict = Verdict(**common, **fields, load_s=round(load_s, 3), total_s=round(time.monotonic() - begin, 3))
    save_verdict(workspace, verdict)
    return verdict


def ask(
    model_dir: Path, model: Model, samples: list[Sample], requests: list[ProbeRequest], progress: Progress
) -> list[ProbeAnswer]:
    """Build the image of a directory, start it as verify does, and return its answers without comparing them.

    Raises what fetch, archive and build raise; GateFailed when it does not become ready.
    """
    fetched = fetch.run(model_dir, model, cache=weights_cache(), progress=progress)
    archived = archive.run(model_dir, model, fetched, resolved_version(model, model_dir), progress)
    image = build.run(model_dir, model, archived, samples, progress).image
    with daemon() as client:
        load(client, image, local_tag(model.name, image), progress)
        prober_image = trusted_runtime(client, model.device, progress)
        settings = hardened(model, "", {"org.torchrelay.verify": model.name})
        with scratch_container(client, model_dir, f"record-{model.name}", image.config_digest, settings) as container:
            container.start()
            wait_container_ready(container, model.timeouts.startup_s + START_MARGIN_S)
            with outside_prober(client, model_dir, container, prober_image) as prober:
                return prober.send(requests, 1, answer_timeout_s(model))


def _replayed(
    client: "DockerClient", model_dir: Path, container: "Container", model: Model, samples: list[Sample], prober_image: str
) -> tuple[dict[str, Any], dict[str, ProbeAnswer]]:
    """Return the verdict's fields about the samples, and the answers."""
    ready_s = None
    outcome = Replay([])
    try:
        ready_s = round(wait_container_ready(container, model.timeouts.startup_s + START_MARGIN_S), 3)
        log.info("ready after %.1f s; sending %d samples", ready_s, len(samples))
        with outside_prober(client, model_dir, container, prober_image) as prober:
            outcome = replay(prober, model, samples, neighbours=True)
        if outcome.passed:
            return {"result": "passed", "ready_s": ready_s, "samples": outcome.results}, outcome.answers
        failure = GateFailed(outcome.reason())
    except GateFailed as raised:
        failure = raised
    text = container_log(container)
    traceback = diagnosis.python_traceback(text)
    reason, fix = failure.message, diagnosis.likely_fix(traceback)
    if killed_for_memory(client, container):
        reason += f"; a process was killed for memory: the limit is {model.resources.memory}"
        fix = "raise resources.memory in model.yaml, or make the model need less"
    failed = {
        "result": "gate_failed",
        "ready_s": ready_s,
        "samples": outcome.results,
        "reason": reason,
        "traceback": traceback or ("" if outcome.results else diagnosis.log_tail(text)),
        "fix": fix or failure.fix,
    }
    return failed, outcome.answers


def require_passed(verdict: Verdict, samples: Sequence[Sample] = ()) -> None:
    """Raise GateFailed unless the verdict is `passed`; the failed `samples` are reported with their places."""
    if verdict.result != "passed":
        traceback = "\n" + textwrap.indent(verdict.traceback, "    ") if verdict.traceback else ""
        problems = failed_samples(verdict, samples)
        fix = verdict.fix or "compare the answers in verdict.json"
        raise GateFailed(f"{verdict.model}: {verdict.reason}{traceback}", fix, problems)


def summary(verdict: Verdict) -> dict[str, Any]:
    """Return what the CLI prints."""
    return dict(json.loads(verdict.model_dump_json()))


def is_older(model_dir: Path, moment: float) -> bool:
    """Return whether verdict.json was written before a moment (seconds since the epoch), i.e. the verdict was reused."""
    try:
        return Workspace(model_dir).verdict.stat().st_mtime < moment
    except OSError:
        return False
