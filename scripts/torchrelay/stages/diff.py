"""Diff: how the answers of the verified image differ from the live endpoint's, sample by sample, by the gate's own comparison."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torchrelay.core.errors import NotVerified
from torchrelay.core.files import write_json
from torchrelay.core.json_text import parse_untrusted
from torchrelay.core.text import printable, shown
from torchrelay.core.urls import require_url
from torchrelay.core.workspace import Workspace
from torchrelay.model.model import Model, predict_path
from torchrelay.model.sample_file import Expect, Sample
from torchrelay.oci.image import load_image
from torchrelay.stages import check
from torchrelay.verification import kept_answers
from torchrelay.verification.compare import MOST, ranked, same_value
from torchrelay.verification.kept_answers import KeptAnswer
from torchrelay.verification.prober import HttpProber, Prober, ProbeRequest

AT_ONCE = 4
PATIENCE_S = 30.0
_MISSING = object()


@dataclass(frozen=True)
class SampleDiff:
    """One sample: `differences` name the live value first, then the new one; a status of 0 means that no answer came."""

    name: str
    same: bool
    differences: list[str]
    status_live: int
    status_new: int


@dataclass(frozen=True)
class LiveDiff:
    """The comparison with one live endpoint; `reason` says why there is none when the endpoint is not reachable."""

    url: str
    reachable: bool
    reason: str = ""
    samples: list[SampleDiff] = field(default_factory=list)

    @property
    def changed(self) -> int:
        """The number of samples whose answers differ."""
        return sum(not row.same for row in self.samples)

    def summary(self) -> dict[str, Any]:
        """Return what the CLI prints, and diff.json contains."""
        return {**asdict(self), "changed": self.changed}


def route(live_url: str, model: Model) -> str:
    """Return the address to ask; the model's route is added unless the address ends in one already."""
    address, path = live_url.rstrip("/"), predict_path(model.name)
    has_route = address.endswith(("/invocations", path)) or f"{path}/" in address
    return address if has_route else f"{address}{path}"


def differences(sample: Sample, live: KeptAnswer, new: KeptAnswer) -> list[str]:
    """Return how two answers to one sample differ, each difference on one line; none when the gate treats them as equal."""
    if live.status != new.status:
        return [f"status: {live.status}, now {new.status}"]
    if sample.expect.kind == "status" or live.digest == new.digest:
        return []
    if live.body is None or new.body is None:
        return ["body: different bytes, too many to be stored"]
    lines = list(_bodies(sample.expect, live.body, new.body))
    return lines if len(lines) <= MOST else [*lines[:MOST], f"and {len(lines) - MOST} more"]


def _bodies(expect: Expect, live: bytes, new: bytes) -> Iterator[str]:
    try:
        if expect.kind not in ("json", "missing"):
            raise ValueError
        before, after = parse_untrusted(live), parse_untrusted(new)
    except ValueError:
        if live != new:
            yield f"body: {_text(live)}, now {_text(new)}"
        return
    yield from _top(expect, before, after) if expect.mode == "top_k" else _walk(expect, expect.value, before, after, "$")


def _text(body: bytes) -> str:
    try:
        return shown(body.decode(), 60)
    except UnicodeDecodeError:
        return f"{len(body)} bytes"


def _top(expect: Expect, live: Any, new: Any) -> Iterator[str]:
    before, after = ranked(live), ranked(new)
    if before is None or after is None:
        yield from _walk(expect, None, live, new, "$")
    elif set(before[: expect.k]) != set(after[: expect.k]):
        yield f"$: the first {expect.k} were {shown(before[: expect.k])}, now {shown(after[: expect.k])}"


def _walk(expect: Expect, shape: Any, live: Any, new: Any, path: str) -> Iterator[str]:
    """Compare two values; in subset mode only the keys that the sample asks for (`shape`)."""
    if expect.mode == "subset" and shape == {}:
        return
    if isinstance(live, dict) and isinstance(new, dict):
        keys = shape if expect.mode == "subset" and isinstance(shape, dict) else live | new
        for key in keys:
            inner = shape.get(key) if isinstance(shape, dict) else None
            yield from _walk(expect, inner, live.get(key, _MISSING), new.get(key, _MISSING), f"{path}.{printable(key, 40)}")
    elif isinstance(live, list) and isinstance(new, list):
        if len(live) != len(new):
            yield f"{path}: {len(live)} items, now {len(new)}"
        for index, (one, other) in enumerate(zip(live, new, strict=False)):
            inner = shape[index] if isinstance(shape, list) and index < len(shape) else None
            yield from _walk(expect, inner, one, other, f"{path}[{index}]")
    elif live is not new and (_MISSING in (live, new) or not same_value(expect, live, new)):
        yield f"{path}: {_value(live)}, now {_value(new)}"


def _value(value: Any) -> str:
    return "nothing" if value is _MISSING else shown(value)


def compare_with(prober: Prober, url: str, model: Model, samples: list[Sample], new: dict[str, KeptAnswer]) -> LiveDiff:
    """Send each sample to the live endpoint, the first alone: when that one gets no answer, no other is sent."""
    timeout_s = min(PATIENCE_S, model.timeouts.response_s + 5)
    samples = [one for one in samples if not one.version]  # the other versions did not change
    requests = [ProbeRequest(one.name, "POST", "", one.content_type, one.body) for one in samples]
    replies = prober.send(requests[:1], 1, timeout_s)
    if replies and replies[0].error:
        return LiveDiff(url, reachable=False, reason=printable(replies[0].error, 400))
    if replies and replies[0].status in (401, 403, 404, 502, 503, 504) and new[samples[0].name].status != replies[0].status:
        return LiveDiff(url, reachable=False, reason=f"it answers with {replies[0].status}")
    replies += prober.send(requests[1:], AT_ONCE, timeout_s)
    rows = []
    for sample, reply in zip(samples, replies, strict=True):
        candidate = new[sample.name]
        lines = (
            [f"no answer: {printable(reply.error, 200)}"] if reply.error else differences(sample, KeptAnswer.of(reply), candidate)
        )
        rows.append(SampleDiff(sample.name, not lines, lines, reply.status, candidate.status))
    return LiveDiff(url, reachable=True, samples=rows)


def run(model_dir: Path, live_url: str) -> LiveDiff:
    """Compare the answers that verify kept with what `live_url` answers, and write diff.json.

    An unreachable endpoint is not a failure. Raises InputsInvalid for an invalid address, NotVerified when verify has not stored
    the answers of this image to these samples, ModelInvalid.
    """
    require_url("live-url", live_url)
    checked, workspace = check.run(model_dir), Workspace(model_dir)
    loaded = load_image(workspace.image_record)
    new = kept_answers.load(workspace, loaded[0].config_digest) if loaded else None
    if new is None or {sample.name for sample in checked.samples} != set(new):
        raise NotVerified(f"{model_dir}: there are no answers of this image to these samples", "run `torchrelay verify` first")
    url = route(live_url, checked.model)
    compared = compare_with(HttpProber(url), url, checked.model, checked.samples, new)
    write_json(workspace.diff, compared.summary())
    return compared
