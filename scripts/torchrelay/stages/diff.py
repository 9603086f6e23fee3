"""Diff: how the answers of a proved image differ from those of what is live; the gate's own idea of equal, sample by sample."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torchrelay.core.errors import NotVerified
from torchrelay.core.files import write_json
from torchrelay.core.text import printable, shown
from torchrelay.core.urls import require_url
from torchrelay.core.workspace import Workspace
from torchrelay.model.model import Model
from torchrelay.model.sample_file import Expect, Sample
from torchrelay.oci import image
from torchrelay.stages.check import check
from torchrelay.verification import kept_answers
from torchrelay.verification.compare import MOST, ranked, same_value
from torchrelay.verification.kept_answers import KeptAnswer
from torchrelay.verification.prober import HttpProber, Prober, ProbeRequest

AT_ONCE = 4
PATIENCE_S = 30.0
_MISSING = object()


@dataclass(frozen=True)
class Row:
    """One sample: `differences` say what is live, then what is new; a status of 0 is no answer."""

    name: str
    same: bool
    differences: list[str]
    status_live: int
    status_new: int


@dataclass(frozen=True)
class Diff:
    """What was compared with what; `reason` says why nothing was, when the live endpoint is not reachable."""

    url: str
    reachable: bool
    reason: str = ""
    samples: list[Row] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """Return what the CLI prints, and diff.json holds."""
        return {**asdict(self), "changed": sum(not row.same for row in self.samples)}


def route(live_url: str, model: Model) -> str:
    """Return the address to ask: what is given, with the model's route unless it names one of ours already."""
    address = live_url.rstrip("/")
    named = address.endswith(("/invocations", f"/predictions/{model.name}")) or f"/predictions/{model.name}/" in address
    return address if named else f"{address}/predictions/{model.name}"


def differences(sample: Sample, live: KeptAnswer, new: KeptAnswer) -> list[str]:
    """Return how two answers to one sample differ, each difference on one line; none when the gate would call them equal."""
    if live.status != new.status:
        return [f"status: {live.status}, now {new.status}"]
    if sample.expect.kind == "status" or live.digest == new.digest:
        return []
    if live.body is None or new.body is None:
        return ["body: other bytes, too many to have been kept"]
    found = list(_bodies(sample.expect, live.body, new.body))
    return found if len(found) <= MOST else [*found[:MOST], f"and {len(found) - MOST} more"]


def _bodies(expect: Expect, live: bytes, new: bytes) -> Iterator[str]:
    try:
        if expect.kind not in ("json", "missing"):
            raise ValueError
        before, after = json.loads(live), json.loads(new)
    except (ValueError, RecursionError):
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
    """Compare two values; with subset only what the sample asks for, which is `shape`."""
    if expect.mode == "subset" and shape == {}:
        return
    if isinstance(live, dict) and isinstance(new, dict):
        asked = shape if expect.mode == "subset" and isinstance(shape, dict) else live | new
        for key in asked:
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


def compare_with(prober: Prober, url: str, model: Model, samples: list[Sample], new: dict[str, KeptAnswer]) -> Diff:
    """Send each sample to what is live, the first alone: when that one gets no answer, no other is sent."""
    timeout_s = min(PATIENCE_S, model.timeouts.response_s + 5)
    samples = [one for one in samples if not one.version]  # another version is as it was
    requests = [ProbeRequest(one.name, "POST", "", one.content_type, one.body) for one in samples]
    came = prober.send(requests[:1], 1, timeout_s)
    if came and came[0].error:
        return Diff(url, reachable=False, reason=printable(came[0].error, 400))
    if came and came[0].status in (401, 403, 404, 502, 503, 504) and new[samples[0].name].status != came[0].status:
        return Diff(url, reachable=False, reason=f"it answers with {came[0].status}")
    came += prober.send(requests[1:], AT_ONCE, timeout_s)
    rows = []
    for sample, answer in zip(samples, came, strict=True):
        candidate = new[sample.name]
        found = (
            [f"no answer: {printable(answer.error, 200)}"]
            if answer.error
            else differences(sample, KeptAnswer.of(answer), candidate)
        )
        rows.append(Row(sample.name, not found, found, answer.status, candidate.status))
    return Diff(url, reachable=True, samples=rows)


def diff(model_dir: Path, live_url: str) -> Diff:
    """Compare the answers that verify kept with what `live_url` answers, and write diff.json.

    An endpoint that cannot be reached is no failure. Raises InputsInvalid for an address that is none, NotVerified when verify has
    not kept the answers of this image and these samples, ModelInvalid.
    """
    require_url("live-url", live_url)
    checked, workspace = check(model_dir), Workspace(model_dir)
    loaded = image.load(workspace.image_record)
    new = kept_answers.load(workspace, loaded[0].config_digest) if loaded else None
    if new is None or {sample.name for sample in checked.samples} != set(new):
        raise NotVerified(f"{model_dir}: there are no answers of this image to these samples", "run `torchrelay verify` first")
    url = route(live_url, checked.model)
    made = compare_with(HttpProber(url), url, checked.model, checked.samples, new)
    write_json(workspace.diff, made.summary())
    return made
