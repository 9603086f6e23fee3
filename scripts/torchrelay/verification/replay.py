"""Sends a model its samples, alone and in concurrent batches, and compares the replies."""

import hashlib
import json
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torchrelay.docker.container import hardened
from torchrelay.model.model import Model, predict_path
from torchrelay.model.samples import Sample
from torchrelay.verification.compare import compare
from torchrelay.verification.prober import ProbeAnswer, Prober, ProbeRequest
from torchrelay.verification.verdict import SampleResult

if TYPE_CHECKING:
    pass


CONCURRENCY = 8


MOST_AT_ONCE = 64


ROUNDS = 3


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


def request_of(model: Model, sample: Sample) -> ProbeRequest:
    """Return the request of a sample, to the version that it names."""
    return _request(sample, predict_path(model.name), sample.name)


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


def at_once(model: Model) -> int:
    """Return how many requests are sent at once: enough to fill a batch, and at least eight."""
    return min(MOST_AT_ONCE, max(CONCURRENCY, model.batch.size))


def conditions(model: Model, concurrency: int) -> str:
    """Return a sha256 (hex) over what the container is given and how it is asked: other conditions, another proof."""
    given = json.dumps([hardened(model, "", {}), concurrency, ROUNDS, model.timeouts.startup_s], sort_keys=True, default=str)
    return hashlib.sha256(given.encode()).hexdigest()
