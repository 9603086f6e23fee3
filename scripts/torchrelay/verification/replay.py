"""Sends a model its samples, alone and in concurrent batches, and compares the replies."""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from torchrelay.docker.container import hardened
from torchrelay.model.model import Model, predict_path
from torchrelay.model.samples import Sample
from torchrelay.verification.compare import compare
from torchrelay.verification.neighbours import neighbour_of
from torchrelay.verification.prober import ProbeAnswer, Prober, ProbeRequest
from torchrelay.verification.verdict import SampleResult

CONCURRENCY = 8
MOST_AT_ONCE = 64
ROUNDS = 3
SENT_FROM = "outside"
"""Where verify sends from: verdicts of versions that used the image's own probe do not count."""
ANSWER_MARGIN_S = 5.0
"""Seconds that an answer may take beyond the model's own `timeouts.response_s`."""


@dataclass(frozen=True)
class Replay:
    """The results of sending all samples. `answers` holds the answer to each sample sent alone."""

    results: list[SampleResult]
    answers: dict[str, ProbeAnswer] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether every answer was the expected one."""
        return all(result.passed for result in self.results)

    def reason(self) -> str:
        """Name the samples that failed and the first difference of each."""
        failed = [result for result in self.results if not result.passed]
        return "; ".join(f"{result.name}: {result.differences[0]}" for result in failed[:5])


def samples_digest(samples: list[Sample]) -> str:
    """Return a sha256 (hex) over requests and expectations: a verdict holds only for the samples it was made with."""
    digest = hashlib.sha256()
    for sample in samples:
        digest.update(repr((sample.name, sample.content_type, sample.expect, sample.latency_ms, sample.version)).encode())
        digest.update(hashlib.sha256(sample.body).digest())
    return digest.hexdigest()


def replay(prober: Prober, model: Model, samples: Sequence[Sample], *, neighbours: bool = False, least: int = 0) -> Replay:
    """Send every sample alone, then all of them many at a time, at least `ROUNDS` times, and compare each answer.

    `neighbours`: each copy is followed by a request of the same shape with other values, so that batches mix even when there is
    only one sample; a live endpoint gets none. `least`: requests in all, or more. Latency budgets apply to the samples sent alone.

    Raises what `prober` raises.
    """
    path, concurrency, timeout_s = predict_path(model.name), at_once(model), answer_timeout_s(model)
    first = _send_alone(prober, model, samples)
    rounds = max(ROUNDS, math.ceil(max(2 * concurrency, least) / max(1, len(samples))))
    crowd: list[tuple[Sample | None, ProbeRequest]] = []
    others = {sample.name: _neighbour(sample, path) for sample in samples} if neighbours else {}
    for turn in range(rounds):
        for sample in samples:
            pair: list[tuple[Sample | None, ProbeRequest]] = [(sample, _request(sample, path, f"{turn}/{sample.name}"))]
            if other := others.get(sample.name):
                # Before it in every third turn, so that either can be the first of a batch.
                pair.insert(1 if turn % 3 else 0, (None, replace(other, id=f"{turn}/{sample.name}/neighbour")))
            crowd += pair
    together: dict[str, list[ProbeAnswer]] = {sample.name: [] for sample in samples}
    for (sent, _), answer in zip(crowd, prober.send([request for _, request in crowd], concurrency, timeout_s), strict=True):
        if sent is not None:
            together[sent.name].append(answer)
    return Replay([_judge(sample, first[sample.name], together[sample.name]) for sample in samples], first)


def correct_samples(prober: Prober, model: Model, samples: Sequence[Sample]) -> list[Sample]:
    """Send each sample once and return those that are answered as expected; latency is not compared.

    Raises what `prober` raises.
    """
    answers = _send_alone(prober, model, samples)
    return [sample for sample in samples if not _differences(sample, answers[sample.name], budget=False)]


def answers_correctly(prober: Prober, model: Model, samples: Sequence[Sample]) -> bool:
    """Return whether each sample, sent once, gets its answer: enough for a version that was verified before."""
    return len(correct_samples(prober, model, samples)) == len(samples)


def _send_alone(prober: Prober, model: Model, samples: Sequence[Sample]) -> dict[str, ProbeAnswer]:
    """Send each sample once, one after the other; return the answers by sample name."""
    requests = [_request(sample, predict_path(model.name), f"alone/{sample.name}") for sample in samples]
    return dict(zip((sample.name for sample in samples), prober.send(requests, 1, answer_timeout_s(model)), strict=True))


def request_of(model: Model, sample: Sample) -> ProbeRequest:
    """Return the request of a sample, to the version that it names."""
    return _request(sample, predict_path(model.name), sample.name)


def _request(sample: Sample, path: str, name: str) -> ProbeRequest:
    return ProbeRequest(name, "POST", sample.path(path), sample.content_type, sample.body)


def _neighbour(sample: Sample, path: str) -> ProbeRequest | None:
    other = neighbour_of(sample) if sample.expect.status == 200 else None
    return None if other is None else ProbeRequest("", "POST", sample.path(path), other.content_type, other.body)


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
    """Return how many requests are sent at once: enough to fill a batch, at least 8 and at most 64."""
    return min(MOST_AT_ONCE, max(CONCURRENCY, model.batch.size))


def answer_timeout_s(model: Model) -> float:
    """Return how many seconds a sample's answer may take."""
    return model.timeouts.response_s + ANSWER_MARGIN_S


def conditions(model: Model, concurrency: int) -> str:
    """Return a sha256 (hex) over the container's limits and how samples are sent: under other conditions it is verified again."""
    limits = hardened(model, "", {})
    how = [limits, concurrency, ROUNDS, model.timeouts.startup_s, SENT_FROM, "neighbours"]
    described = json.dumps(how, sort_keys=True, default=str)
    return hashlib.sha256(described.encode()).hexdigest()
