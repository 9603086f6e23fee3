"""The result of one model in one job: the result file that `summary` writes and `report` merges."""

from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from torchrelay.core.errors import ModelInvalid, TorchrelayError
from torchrelay.core.files import read_json, write_json
from torchrelay.core.workspace import Workspace
from torchrelay.model.model import load_model
from torchrelay.stages import error_file
from torchrelay.stages.journal import ORDER, handed_over

ResultKind = Literal["passed", "gate_failed", "failed", "rolled_back", "rollback_failed"]
RESULT_KINDS: tuple[ResultKind, ...] = get_args(ResultKind)
"""From best to worst."""
NO_REASON = (
    "the job did not succeed and no stage reported an error: another step failed, the job ran out of time, or its machine was lost"
)

Text = Field(default="", max_length=4096)
LongText = Field(default="", max_length=65536)


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", strict=True, allow_inf_nan=False)


class Mistake(_Part):
    """One problem in a file of the model."""

    file: str = Text
    line: int | None = None
    field: str = Text
    message: str = LongText
    fix: str = LongText


class Failure(_Part):
    """The error of the failed stage, as in error.json."""

    stage: str = Text
    kind: str = Text
    message: str = LongText
    fix: str = LongText
    problems: list[Mistake] = Field(default_factory=list, max_length=1000)


class StageRow(_Part):
    """One stage: its time in seconds, whether an earlier result was reused, and what a push uploaded."""

    stage: str = Text
    seconds: float = 0.0
    began: float = 0.0
    skipped: bool = False
    result: str = Text
    weights_format: str = Text
    executes_code: bool = False
    blobs: int | None = None
    bytes: int | None = None
    sent: list[str] | None = None


class SampleRow(_Part):
    """One sample of the verdict; times in milliseconds."""

    name: str = Text
    passed: bool = False
    differences: list[str] = Field(default_factory=list, max_length=10000)
    alone_ms: float | None = None
    together_ms: list[float] = Field(default_factory=list, max_length=100000)


class LayerRow(_Part):
    """One image layer; size in bytes."""

    digest: str = Text
    size: int = 0
    created_by: str = Text


class DiffRow(_Part):
    """How one sample's answer differs from the live endpoint's."""

    name: str = Text
    same: bool = True
    differences: list[str] = Field(default_factory=list, max_length=10000)
    status_live: int | None = None
    status_new: int | None = None


class LiveDiff(_Part):
    """The comparison with the live endpoint, as in diff.json."""

    url: str = Text
    version: str | None = Text
    reachable: bool = False
    reason: str | None = LongText
    samples: list[DiffRow] = Field(default_factory=list, max_length=10000)


class JobResult(_Part):
    """One model's result in one job; fields are empty for stages that did not run."""

    model: str = Text
    version: str = Text
    job: Literal["build", "deploy"] = "build"
    result: ResultKind = "failed"
    image: str = Text
    reference: str = Text
    endpoint: str = Text
    target: str = Text
    previous: str = Text
    stages: list[StageRow] = Field(default_factory=list, max_length=100)
    samples: list[SampleRow] = Field(default_factory=list, max_length=10000)
    layers: list[LayerRow] = Field(default_factory=list, max_length=1000)
    diff: LiveDiff | None = None
    error: Failure | None = None


def text(value: Any) -> str:
    """Return a string, cut at 4096 characters; "" for anything else."""
    return value[:4096] if isinstance(value, str) else ""


def mapping(value: Any) -> dict[str, Any]:
    """Return a JSON object; an empty one for anything else."""
    return value if isinstance(value, dict) else {}


def _clean(value: Any, depth: int = 12) -> Any:
    """Return JSON with strings that pydantic accepts: at most 65536 characters, no unpaired surrogate."""
    if isinstance(value, str):
        return value[:65536].encode(errors="backslashreplace").decode()[:65536]
    if not isinstance(value, dict | list):
        return value
    if not depth:
        return None
    if isinstance(value, list):
        return [_clean(item, depth - 1) for item in value]
    return {str(_clean(key)): _clean(item, depth - 1) for key, item in value.items()}


def _read(path: Path) -> Any:
    try:
        return _clean(read_json(path))
    except RecursionError:
        return None


def _valid_rows(kind: type[_Part], rows: Any) -> list[Any]:
    """Return the rows of a list that have the right form; damaged ones are dropped."""
    valid = []
    for row in rows if isinstance(rows, list) else []:
        try:
            valid.append(kind.model_validate(row))
        except ValidationError:
            continue
    return valid


def _valid(kind: type[_Part], value: Any) -> Any:
    return next(iter(_valid_rows(kind, [value] if value is not None else [])), None)


def result_of(error: Failure | None, verdict: str, *, served: bool) -> ResultKind:
    """Return the error's result, otherwise the verdict's; without either, passed if a target serves the model."""
    if error is not None:
        return next((kind for kind in RESULT_KINDS[1:] if kind == error.kind), "failed")
    return next((kind for kind in RESULT_KINDS if kind == verdict), "passed" if served and not verdict else "failed")


def gather(folder: Path, *, bundle: bool, job_status: str = "") -> JobResult:
    """Read the state that the stages wrote in a model directory or a bundle; missing or damaged parts stay empty.

    `job_status` is GitHub's: a job that did not succeed although no stage reported an error was interrupted.
    """
    workspace = Workspace(folder)
    if not bundle and (foreign := _foreign(workspace)):
        return JobResult(model=_name(folder, bundle=False), error=foreign)
    release = mapping(_read(folder / "release.json")) if bundle else {}
    verdict = mapping(release.get("verdict") if bundle else _read(workspace.verdict))
    rows = {row["stage"]: row for row in [*(_clean(handed_over(folder)) if bundle else []), *_stage_rows(workspace.stages)]}
    deployed, pushed = rows.get("deploy", {}), mapping(_read(workspace.push_record)) or rows.get("push", {})
    # A build job deploys nothing, whatever its files say.
    live, pushed_image = (deployed, pushed) if bundle else ({}, {})
    error = _failure(folder, job_status)
    layers = _bundled_layers(folder) if bundle else _layers_of(_read(workspace.image_record))
    return JobResult(
        model=text(verdict.get("model")) or text(mapping(release.get("model")).get("name")) or _name(folder, bundle=bundle),
        version=text(verdict.get("version")) or text(release.get("version")) or text(deployed.get("version")),
        job="deploy" if bundle else "build",
        result=result_of(error, text(verdict.get("result")), served=bool(deployed)),
        image=text(verdict.get("image")),
        reference=text(pushed_image.get("reference")),
        endpoint=text(live.get("url")),
        target=text(live.get("target")),
        previous=text(live.get("previous")),
        stages=_valid_rows(StageRow, list(rows.values())),
        samples=_valid_rows(SampleRow, verdict.get("samples")),
        layers=_valid_rows(LayerRow, layers),
        diff=_valid(LiveDiff, _read(workspace.root / "diff.json")),
        error=error,
    )


def _failure(folder: Path, job_status: str) -> Failure | None:
    """Return the recorded error: the model's own, otherwise one recorded for the whole job (a failed login)."""
    for place in (folder, None):
        if error_file.there(place):
            return _valid(Failure, _clean(error_file.read(place))) or Failure(kind="failed", message="error.json cannot be read")
    if job_status in ("failure", "cancelled"):
        return Failure(kind="interrupted", message=NO_REASON, fix="read the end of the job's log, then run it again")
    return None


def _foreign(workspace: Workspace) -> Failure | None:
    """Return why the state is not trusted: .torchrelay came with the repository."""
    try:
        workspace.reject_foreign()
    except ModelInvalid as error:
        problems = [Mistake(file=problem.file, message=problem.message, fix=problem.fix) for problem in error.problems]
        return Failure(stage="check", kind=error.kind, message=error.message, fix=error.fix, problems=problems)
    return None


def _stage_rows(path: Path) -> list[dict[str, Any]]:
    rows = _read(path)
    return [row for row in rows if isinstance(row, dict) and row.get("stage") in ORDER] if isinstance(rows, list) else []


def _name(folder: Path, *, bundle: bool) -> str:
    """Return the name in model.yaml, or the folder's name if that cannot be read."""
    try:
        return folder.resolve().name if bundle else load_model(folder).name
    except (TorchrelayError, OSError):
        return folder.resolve().name


def _layers_of(record: Any) -> list[dict[str, Any]]:
    layers = mapping(record).get("layers")
    return [layer for layer in layers if isinstance(layer, dict)] if isinstance(layers, list) else []


def _bundled_layers(folder: Path) -> list[dict[str, Any]]:
    """Return the layers of the only image in an OCI layout, each with its `created_by`."""
    blobs = folder / "blobs" / "sha256"

    def blob(descriptor: Any) -> dict[str, Any]:
        algorithm, _, digest = text(mapping(descriptor).get("digest")).partition(":")
        return mapping(_read(blobs / digest)) if algorithm == "sha256" and digest.isalnum() else {}

    manifests = mapping(_read(folder / "index.json")).get("manifests")
    manifest = blob(manifests[0]) if isinstance(manifests, list) and manifests else {}
    history = blob(manifest.get("config")).get("history")
    creators = [text(mapping(entry).get("created_by")) for entry in history or [] if not mapping(entry).get("empty_layer")]
    layers = _layers_of(manifest)
    creators += [""] * (len(layers) - len(creators))
    return [{**layer, "created_by": creator} for layer, creator in zip(layers, creators, strict=False)]


def save(path: Path, result: JobResult) -> None:
    """Write the result file."""
    write_json(path, result.model_dump())
