"""Verify: start the image as it will run, but without a network, and hold every sample against its answer.

The container gets no network, a read-only root with /tmp to write to, no root, no capabilities and the declared CPU and memory.
Each sample is sent alone, then all of them several at a time, so that they meet in batches; requests go through the image's own
front by `docker exec`, as nothing else can reach it.
"""

import hashlib
import json
import math
import textwrap
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from torchrelay import answers, diagnosis
from torchrelay import image as images
from torchrelay import verdict as verdicts
from torchrelay.archive import archive
from torchrelay.build import build
from torchrelay.compare import compare
from torchrelay.engine import daemon, load
from torchrelay.errors import GateFailed, NotProved
from torchrelay.fetch import fetch
from torchrelay.gitversion import resolved_version
from torchrelay.image import Image
from torchrelay.layout import weights_cache
from torchrelay.model import Model
from torchrelay.probe import ExecProber, ProbeAnswer, Prober, ProbeRequest
from torchrelay.report import Progress, log
from torchrelay.samples import Sample
from torchrelay.scratch import scratch_container
from torchrelay.verdict import SampleResult, Verdict
from torchrelay.workspace import Workspace

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.containers import Container

POLL_S = 0.25
START_MARGIN_S = 30
CONCURRENCY = 8
MOST_AT_ONCE = 64
ROUNDS = 3
LOG_LINES = 400
REFUSED = "the warm-up request was answered with"  # runtime/readiness.py
REFUSED_S = 3.0
LOAD_FIX = "mend what the traceback shows"
STARTUP_FIX = "if it only needs longer, raise timeouts.startup_s in model.yaml"


@dataclass(frozen=True)
class Outcome:
    """What replaying the samples gave."""

    results: list[SampleResult]
    answers: dict[str, ProbeAnswer] = field(default_factory=dict)  # to each sample alone

    @property
    def passed(self) -> bool:
        """Whether every answer was the expected one."""
        return all(result.passed for result in self.results)

    def reason(self) -> str:
        """Name the samples that failed and the first difference of each."""
        failed = [result for result in self.results if not result.passed]
        return "; ".join(f"{result.name}: {result.differences[0]}" for result in failed[:5])


def samples_digest(samples: list[Sample]) -> str:
    """Return a sha256 (hex) over requests and expectations: a verdict on other samples is no verdict on these."""
    digest = hashlib.sha256()
    for sample in samples:
        digest.update(repr((sample.name, sample.content_type, sample.expect, sample.latency_ms, sample.version)).encode())
        digest.update(hashlib.sha256(sample.body).digest())
    return digest.hexdigest()


def replay(prober: Prober, samples: list[Sample], path: str, concurrency: int, timeout_s: float) -> Outcome:
    """Send every sample alone, then all of them `concurrency` at a time and at least `ROUNDS` times over, and compare each answer.

    Latency budgets hold for the samples sent alone.
    """
    alone = [_request(sample, path, f"alone/{sample.name}") for sample in samples]
    first = dict(zip((sample.name for sample in samples), prober.send(alone, 1, timeout_s), strict=True))
    rounds = max(ROUNDS, math.ceil(2 * concurrency / max(1, len(samples))))
    crowd = [(sample, _request(sample, path, f"{turn}/{sample.name}")) for turn in range(rounds) for sample in samples]
    together: dict[str, list[ProbeAnswer]] = {sample.name: [] for sample in samples}
    for (sample, _), answer in zip(crowd, prober.send([request for _, request in crowd], concurrency, timeout_s), strict=True):
        together[sample.name].append(answer)
    return Outcome([_judge(sample, first[sample.name], together[sample.name]) for sample in samples], first)


def _request(sample: Sample, path: str, name: str) -> ProbeRequest:
    return ProbeRequest(name, "POST", sample.path(path), sample.content_type, sample.body)


def _judge(sample: Sample, alone: ProbeAnswer, together: list[ProbeAnswer]) -> SampleResult:
    differences = _differences(sample, alone, budget=True)
    for answer in together:
        differences += [f"among others: {difference}" for difference in _differences(sample, answer, budget=False)]
    latency = None if alone.error else round(alone.latency_ms, 2)
    return SampleResult(
        name=sample.name,
        passed=not differences,
        differences=list(dict.fromkeys(differences)),
        alone_ms=latency,
        together_ms=[round(answer.latency_ms, 2) for answer in together],
    )


def _differences(sample: Sample, answer: ProbeAnswer, *, budget: bool) -> list[str]:
    if answer.error:
        return [answer.error]
    latency = answer.latency_ms if budget else 0.0
    return compare(sample, answer.status, answer.content_type, answer.body, latency)


def hardened(model: Model, name: str, labels: dict[str, str]) -> dict[str, Any]:
    """Return the container's settings, for docker's API: what it may use and what it may not do."""
    settings: dict[str, Any] = {
        "name": name,
        "network_mode": "none",
        "read_only": True,
        "tmpfs": {"/tmp": "rw,nosuid,nodev"},  # noqa: S108 -- inside the container
        "user": "1000:1000",
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],
        "pids_limit": 4096,
        "mem_limit": model.memory_bytes,
        "memswap_limit": model.memory_bytes,
        "nano_cpus": int(model.resources.cpu * 1e9),
        "labels": labels,
        "healthcheck": {"test": ["NONE"]},
    }
    if model.gpus:
        from docker.types import DeviceRequest  # noqa: PLC0415 -- only GPU models pay for it

        settings["device_requests"] = [DeviceRequest(count=model.gpus, capabilities=[["gpu"]])]
    return settings


def at_once(model: Model) -> int:
    """Return how many requests are sent at once: enough to fill a batch, and at least eight."""
    return min(MOST_AT_ONCE, max(CONCURRENCY, model.batch.size))


def conditions(model: Model, concurrency: int) -> str:
    """Return a sha256 (hex) over what the container is given and how it is asked: other conditions, another proof."""
    given = json.dumps([hardened(model, "", {}), concurrency, ROUNDS, model.timeouts.startup_s], sort_keys=True, default=str)
    return hashlib.sha256(given.encode()).hexdigest()


def wait_ready(container: "Container", deadline_s: float, clock: Callable[[], float] = time.monotonic) -> float:
    """Wait until a worker has answered; return the seconds it took.

    Raises GateFailed with the last state seen when the container ends, the model does not load or answer, or is too slow.
    """
    begin = clock()
    prober, reason, refused_since = ExecProber(container), "not asked yet", None
    while clock() - begin < deadline_s:
        container.reload()
        if container.status != "running":
            raise GateFailed(f"the container ended with code {container.attrs['State'].get('ExitCode')} before it was ready")
        state = prober.ready()
        if state.ready:
            return clock() - begin
        reason = state.reason
        if state.failed or diagnosis.has_failed_to_load(_log(container, LOG_LINES)):
            time.sleep(POLL_S)  # two threads write the log: the end of the traceback may come last
            why = diagnosis.load_failure(_log(container), reason if state.failed else "its process died")
            raise GateFailed(f"the model does not load: {why}", STARTUP_FIX if "startup_s" in why else LOAD_FIX)
        refused_since = (refused_since or clock()) if reason.startswith(REFUSED) else None
        if refused_since is not None and clock() - refused_since > REFUSED_S:
            raise GateFailed(f"the model loads but does not answer: {reason}", LOAD_FIX)
        time.sleep(POLL_S)
    raise GateFailed(f"not ready after {deadline_s:.0f} s; last state: {reason}", STARTUP_FIX)


def _log(container: "Container", lines: int | Literal["all"] = "all") -> str:
    """Return the log since the container's last start."""
    since = datetime.fromisoformat(container.attrs["State"]["StartedAt"][:19] + "+00:00")
    return container.logs(since=int(since.timestamp()), tail=lines).decode(errors="replace")


def killed_for_memory(client: "DockerClient", container: "Container") -> bool:
    """Tell whether the kernel killed any process of a container for want of memory, by the daemon's own clock and events."""
    now = datetime.fromisoformat(client.info()["SystemTime"][:19] + "+00:00")
    until = int(now.timestamp()) + 1
    wanted = {"container": container.id, "event": "oom"}
    return any(client.events(since=1, until=until, filters=wanted, decode=True))


def verify(model_dir: Path, model: Model, samples: list[Sample], progress: Progress) -> Verdict:
    """Prove the built image and write verdict.json.

    Returns the verdict, passed or failed. Raises NotProved when there is nothing to verify, DockerUnavailable, BuildFailed.
    """
    begin = time.monotonic()
    concurrency = at_once(model)
    workspace = Workspace(model_dir)
    loaded = images.load(workspace.image_record)
    if loaded is None:
        raise NotProved(f"{model_dir}: there is no built image", "run `torchrelay build` first")
    image, _ = loaded
    digest, under = samples_digest(samples), conditions(model, concurrency)
    known = verdicts.read(workspace)
    same = known and (known.config, known.samples_digest, known.conditions) == (image.config_digest, digest, under)
    if known and same and known.result == "passed" and answers.kept(workspace, image.config_digest) is not None:
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
        load_s = time.monotonic() - begin
        settings = hardened(model, "", {"org.torchrelay.verify": model.name})
        with scratch_container(client, model_dir, f"verify-{model.name}", image.config_digest, settings) as container:
            container.start()
            container.reload()
            found, got = _prove(client, container, model, samples, concurrency)
    answers.keep(workspace, image.config_digest, got)
    verdict = Verdict(**common, **found, load_s=round(load_s, 3), total_s=round(time.monotonic() - begin, 3))
    verdicts.save(workspace, verdict)
    return verdict


def ask(
    model_dir: Path, model: Model, samples: list[Sample], requests: list[ProbeRequest], progress: Progress
) -> list[ProbeAnswer]:
    """Build the image of a directory, start it as verify does, and return its answers, judged by nobody.

    Raises what fetch, archive and build raise; GateFailed when it does not become ready.
    """
    fetched = fetch(model_dir, model, cache=weights_cache(), progress=progress)
    archived = archive(model_dir, model, fetched, resolved_version(model, model_dir), progress)
    image = build(model_dir, model, archived, samples, progress).image
    with daemon() as client:
        load(client, image, local_tag(model.name, image), progress)
        settings = hardened(model, "", {"org.torchrelay.verify": model.name})
        with scratch_container(client, model_dir, f"record-{model.name}", image.config_digest, settings) as container:
            container.start()
            wait_ready(container, model.timeouts.startup_s + START_MARGIN_S)
            return ExecProber(container).send(requests, 1, model.timeouts.response_s + 5)


def local_tag(name: str, image: Image) -> str:
    """Return the tag that the image has in the local daemon."""
    return f"torchrelay/{name}:{image.config_digest[7:19]}"


def _prove(
    client: "DockerClient", container: "Container", model: Model, samples: list[Sample], concurrency: int
) -> tuple[dict[str, Any], dict[str, ProbeAnswer]]:
    """Return what the verdict says of the samples, and the answers."""
    ready_s = None
    outcome = Outcome([])
    try:
        ready_s = round(wait_ready(container, model.timeouts.startup_s + START_MARGIN_S), 3)
        log.info("ready after %.1f s; sending %d samples", ready_s, len(samples))
        timeout_s = model.timeouts.response_s + 5
        outcome = replay(ExecProber(container), samples, f"/predictions/{model.name}", concurrency, timeout_s)
        if outcome.passed:
            return {"result": "passed", "ready_s": ready_s, "samples": outcome.results}, outcome.answers
        failure = GateFailed(outcome.reason())
    except GateFailed as raised:
        failure = raised
    text = _log(container)
    traceback = diagnosis.python_traceback(text)
    reason, fix = failure.message, diagnosis.likely_fix(traceback)
    if killed_for_memory(client, container):
        reason += f"; a process was killed for memory: the limit is {model.resources.memory}"
        fix = "raise resources.memory in model.yaml, or make the model need less"
    told = {
        "result": "gate_failed",
        "ready_s": ready_s,
        "samples": outcome.results,
        "reason": reason,
        "traceback": traceback or ("" if outcome.results else diagnosis.log_tail(text)),
        "fix": fix or failure.fix,
    }
    return told, outcome.answers


def require_passed(verdict: Verdict, samples: Sequence[Sample] = ()) -> None:
    """Raise GateFailed unless the verdict is `passed`; those of `samples` that failed are told with their places."""
    if verdict.result != "passed":
        traceback = "\n" + textwrap.indent(verdict.traceback, "    ") if verdict.traceback else ""
        told = f"{verdict.model}: {verdict.reason}{traceback}"
        raise GateFailed(told, verdict.fix or "compare the answers in verdict.json", verdicts.failed_samples(verdict, samples))


def summary(verdict: Verdict) -> dict[str, Any]:
    """Return what the CLI prints."""
    return dict(json.loads(verdict.model_dump_json()))


def is_older(model_dir: Path, moment: float) -> bool:
    """Tell whether verdict.json was written before a moment (seconds since the epoch): then nothing was proved anew."""
    try:
        return Workspace(model_dir).verdict.stat().st_mtime < moment
    except OSError:
        return False
