"""The verdict: the result of verify, bound to the digest of the image it verified; push and deploy require it."""

from collections.abc import Iterable
from typing import Literal

from pydantic import BaseModel, ConfigDict

from torchrelay.core.errors import NotVerified, Problem
from torchrelay.core.files import read_json, write_json
from torchrelay.core.workspace import Workspace
from torchrelay.model.samples import Sample

SCHEMA = "https://json-schema.org/draft/2020-12/schema"

VerdictResult = Literal["passed", "gate_failed", "rolled_back", "rollback_failed"]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class SampleResult(_Part):
    """One sample: its differences from the expected answer (none: passed) and the latency of each answer in milliseconds."""

    name: str
    passed: bool
    differences: list[str]
    alone_ms: float | None
    together_ms: list[float]


class Verdict(_Part):
    """What was verified, under which conditions, with which result, and how long it took (seconds)."""

    result: VerdictResult
    model: str
    version: str
    image: str  # digest of the manifest
    config: str  # digest of the config: what ran
    samples_digest: str
    conditions: str  # digest of the container's limits (CPU, memory, no network ...) and of how the samples were sent
    concurrency: int
    ready_s: float | None
    load_s: float
    total_s: float
    samples: list[SampleResult]
    reason: str = ""
    traceback: str = ""
    fix: str = ""


def schema() -> dict[str, object]:
    """Return the JSON Schema of verdict.json."""
    return {"$schema": SCHEMA, **Verdict.model_json_schema()}


def save_verdict(workspace: Workspace, verdict: Verdict) -> None:
    """Write verdict.json."""
    workspace.ensure()
    write_json(workspace.verdict, verdict.model_dump())


def read_verdict(workspace: Workspace) -> Verdict | None:
    """Return the last verdict; None when there is none or it cannot be read."""
    document = read_json(workspace.verdict)
    try:
        return Verdict.model_validate(document)
    except ValueError:
        return None


def failed_samples(verdict: Verdict, samples: Iterable[Sample]) -> list[Problem]:
    """Return what is wrong with each failed sample, with its file and line in the model directory."""
    failed = {result.name: "; ".join(result.differences[:3]) for result in verdict.samples if not result.passed}
    return [
        Problem(sample.file, sample.line, sample.name, failed[sample.name], verdict.fix)
        for sample in samples
        if sample.name in failed
    ]


def require_passing(workspace: Workspace, config_digest: str) -> Verdict:
    """Return the passing verdict on exactly this image.

    Raises NotVerified when there is none.
    """
    verdict = read_verdict(workspace)
    fix = "run `torchrelay verify` first"
    if verdict is None:
        raise NotVerified(f"{workspace.verdict}: there is no verdict on the image", fix)
    if verdict.config != config_digest:
        raise NotVerified(f"the verdict is on {verdict.config}, but the image is {config_digest}", fix)
    if verdict.result != "passed":
        raise NotVerified(f"the image's verdict is {verdict.result}: {verdict.reason}", "fix the model, then verify it again")
    return verdict
