"""`torchrelay samples record`: writes a run's answers as the expected answers. A person reviews them before the commit."""

import base64
import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torchrelay.core.files import atomic_write
from torchrelay.core.json_text import parse_untrusted
from torchrelay.model.model import Model
from torchrelay.model.samples import Sample
from torchrelay.verification.prober import ProbeRequest
from torchrelay.verification.replay import request_of

NUMERIC = {"compare": "numeric", "rtol": 1e-3, "atol": 1e-4}  # the last digits of floats differ between CPUs


@dataclass(frozen=True)
class Answer:
    """A model's answer to a sample."""

    status: int
    content_type: str
    body: bytes


def requests(model: Model, samples: list[Sample]) -> list[ProbeRequest]:
    """Return each sample's request, sent to the version that the sample names."""
    return [request_of(model, sample) for sample in samples]


def record(model_dir: Path, samples: list[Sample], answers: Mapping[str, Answer]) -> list[Path]:
    """Write the answers as expectations and return the files that changed; samples without an answer stay unchanged.

    Each file is replaced completely or not at all.
    """
    plan: dict[Path, bytes] = {}
    for sample in samples:
        if sample.name in answers:
            plan |= plan_record(model_dir / sample.file, sample, answers[sample.name])
    changed = [path for path, content in plan.items() if not path.is_file() or path.read_bytes() != content]
    for path in changed:
        with atomic_write(path) as stream:
            stream.write(plan[path])
    return changed


def plan_record(path: Path, sample: Sample, answer: Answer) -> dict[Path, bytes]:
    """Return the files to write for one sample, with their content: the sample itself, or the files beside a pair's request."""
    if path.name == f"{sample.name}.json":
        return {path: recorded(path.read_bytes(), answer)}
    return _plan_pair(path, sample, answer)


def recorded(data: bytes, answer: Answer) -> bytes:
    """Return a sample file with the answer as its expectation; everything else stays the same, in the same order."""
    file: dict[str, Any] = json.loads(data.decode("utf-8-sig"))
    before: dict[str, Any] = file.get("expect") or {}
    key, value = _value(answer)
    options = {name: part for name, part in before.items() if name not in {"status", "json", "text", "base64"}}
    if key != "json":
        options = {}  # they only apply to JSON
    elif not options and _has_float(value):
        options = dict(NUMERIC)
    status = {"status": answer.status} if answer.status != 200 or "status" in before else {}
    file["expect"] = status | {key: value} | options
    return _json(file)


def _plan_pair(path: Path, sample: Sample, answer: Answer) -> dict[Path, bytes]:
    key, value = _value(answer)
    suffix = {"json": ".json", "text": ".txt", "base64": ".bin"}[key]
    others = [other for other in path.parent.glob("*") if other.name.startswith(f"{sample.name}.expected.")]
    expected = path.with_name(f"{sample.name}.expected{suffix}")
    if others and expected not in others:
        expected = others[0]  # keep the form that the author chose; a second file would be a mistake
    plan = {expected: _json(value) if expected.suffix == ".json" and key == "json" else answer.body}
    sidecar = path.with_name(f"{sample.name}.compare.json")
    compare: dict[str, Any] = json.loads(sidecar.read_bytes()) if sidecar.is_file() else {}
    if key == "json" and "compare" not in compare and _has_float(value):
        compare |= NUMERIC
    if answer.status != compare.get("status", 200):
        compare["status"] = answer.status
    return plan | ({sidecar: _json(compare)} if compare else {})


def _value(answer: Answer) -> tuple[str, Any]:
    """Return the answer as JSON if it is JSON, as text if the server says so, otherwise as base64."""
    with contextlib.suppress(ValueError):
        return "json", parse_untrusted(answer.body)
    if answer.content_type.startswith("text/"):
        with contextlib.suppress(UnicodeDecodeError):
            return "text", answer.body.decode()
    return "base64", base64.b64encode(answer.body).decode()


def _has_float(value: Any) -> bool:
    if isinstance(value, dict):
        return any(_has_float(part) for part in value.values())
    if isinstance(value, list):
        return any(_has_float(part) for part in value)
    return isinstance(value, float)


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=2, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"
