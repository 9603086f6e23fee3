"""What came of one model in one job: the result file that `summary` writes and `report` merges."""

from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from torchrelay.core.errors import ModelInvalid
from torchrelay.core.files import read_json, write_json
from torchrelay.core.workspace import Workspace
from torchrelay.stages import error_file
from torchrelay.stages import journal as stages

Result = Literal["passed", "gate_failed", "failed", "rolled_back", "rollback_failed"]
WORST: tuple[Result, ...] = get_args(Result)  # from best to worst
SILENT = "the job did not succeed, and no stage says why: another step failed, it ran out of time, or its machine was lost"

Text = Field(default="", max_length=4096)
Long = Field(default="", max_length=65536)


class _Facts(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", strict=True, allow_inf_nan=False)


class Mistake(_Facts):
    """One problem in a file of the model."""

    file: str = Text
    line: int | None = None
    field: str = Text
    message: str = Long
    fix: str = Long


class Failed(_Facts):
    """Why, as error.json tells it."""

    stage: str = Text
    kind: str = Text
    message: str = Long
    fix: str = Long
    problems: list[Mistake] = Field(default_factory=list, max_length=1000)


class Stage(_Facts):
    """One stage's row: seconds, whether its result was there already, and what a push sent."""

    stage: str = Text
    seconds: float = 0.0
    began: float = 0.0
    skipped: bool = False
    result: str = Text
    blobs: int | None = None
    bytes: int | None = None
    sent: list[str] | None = None


class SampleRow(_Facts):
    """One sample of the verdict; milliseconds."""

    name: str = Text
    passed: bool = False
    differences: list[str] = Field(default_factory=list, max_length=10000)
    alone_ms: float | None = None
    together_ms: list[float] = Field(default_factory=list, max_length=100000)


class LayerRow(_Facts):
    """One layer; bytes."""

    digest: str = Text
    size: int = 0
    created_by: str = Text


class DiffRow(_Facts):
    """How one sample's answer differs from what is live."""

    name: str = Text
    same: bool = True
    differences: list[str] = Field(default_factory=list, max_length=10000)
    status_live: int | None = None
    status_new: int | None = None


class Diff(_Facts):
    """What diff.json says."""

    url: str = Text
    version: str | None = Text
    reachable: bool = False
    reason: str | None = Long
    samples: list[DiffRow] = Field(default_factory=list, max_length=10000)


class Outcome(_Facts):
    """One model's result; empty texts for what this run did not do."""

    model: str = Text
    version: str = Text
    job: Literal["build", "deploy"] = "build"
    result: Result = "failed"
    image: str = Text
    reference: str = Text
    endpoint: str = Text
    target: str = Text
    previous: str = Text
    stages: list[Stage] = Field(default_factory=list, max_length=100)
    samples: list[SampleRow] = Field(default_factory=list, max_length=10000)
    layers: list[LayerRow] = Field(default_factory=list, max_length=1000)
    diff: Diff | None = None
    error: Failed | None = None


def text(value: Any) -> str:
    """Return a text of bearable length, or an empty one for anything else."""
    return value[:4096] if isinstance(value, str) else ""


def mapping(value: Any) -> dict[str, Any]:
    """Return a JSON object, or an empty one for anything else."""
    return value if isinstance(value, dict) else {}


def _clean(value: Any, depth: int = 12) -> Any:
    """Return JSON with texts that pydantic takes: of bearable length, and no half of a surrogate pair."""
    if isinstance(value, str):
        return value[:65536].encode(errors="backslashreplace").decode()[:65536]
    if not isinstance(value, dict | list):
        return value
    if not depth:
        return None
    if isinstance(value, list):
        return [_clean(one, depth - 1) for one in value]
    return {str(_clean(key)): _clean(one, depth - 1) for key, one in value.items()}


def _read(path: Path) -> Any:
    try:
        return _clean(read_json(path))
    except RecursionError:
        return None


def _rows(kind: type[_Facts], found: Any) -> list[Any]:
    """Return what of a list is as it should be."""
    kept = []
    for one in found if isinstance(found, list) else []:
        try:
            kept.append(kind.model_validate(one))
        except ValidationError:
            continue
    return kept


def _one(kind: type[_Facts], found: Any) -> Any:
    return next(iter(_rows(kind, [found] if found is not None else [])), None)


def result_of(error: Failed | None, gate: str, *, served: bool) -> Result:
    """Return the result: the error's, else the verdict's; without a verdict it passed only if a target serves it."""
    if error is not None:
        return next((one for one in WORST[1:] if one == error.kind), "failed")
    return next((one for one in WORST if one == gate), "passed" if served and not gate else "failed")


def gather(folder: Path, *, bundle: bool, job_status: str = "") -> Outcome:
    """Read what the stages left in a model directory, or in a bundle and in its own state; what is missing or damaged stays empty.

    `job_status` is GitHub's: a job that did not succeed though no stage says why was killed.
    """
    workspace = Workspace(folder)
    if not bundle and (foreign := _foreign(workspace)):
        return Outcome(model=_name(folder, bundle=False), error=foreign)
    release = mapping(_read(folder / "release.json")) if bundle else {}
    gate = mapping(release.get("verdict") if bundle else _read(workspace.verdict))
    rows = {row["stage"]: row for row in [*(_clean(stages.handed_over(folder)) if bundle else []), *_rows_of(workspace.stages)]}
    deployed, pushed = rows.get("deploy", {}), mapping(_read(workspace.push_record)) or rows.get("push", {})
    told, sent = (deployed, pushed) if bundle else ({}, {})  # a build job puts nothing live, whatever lies there
    error: Failed | None = None
    place = next((one for one in (folder, None) if error_file.there(one)), "nowhere")
    if not isinstance(place, str):
        error = _one(Failed, _clean(error_file.read(place))) or Failed(kind="failed", message="error.json cannot be read")
    elif job_status in ("failure", "cancelled"):
        error = Failed(kind="interrupted", message=SILENT, fix="look at the end of the job's log, then run it again")
    layers = _bundled_layers(folder) if bundle else _built_layers(_read(workspace.image_record))
    return Outcome(
        model=text(gate.get("model")) or text(mapping(release.get("model")).get("name")) or _name(folder, bundle=bundle),
        version=text(gate.get("version")) or text(release.get("version")) or text(deployed.get("version")),
        job="deploy" if bundle else "build",
        result=result_of(error, text(gate.get("result")), served=bool(deployed)),
        image=text(gate.get("image")),
        reference=text(sent.get("reference")),
        endpoint=text(told.get("url")),
        target=text(told.get("target")),
        previous=text(told.get("previous")),
        stages=_rows(Stage, list(rows.values())),
        samples=_rows(SampleRow, gate.get("samples")),
        layers=_rows(LayerRow, layers),
        diff=_one(Diff, _read(workspace.root / "diff.json")),
        error=error,
    )


def _foreign(workspace: Workspace) -> Failed | None:
    """Return why nothing here is believed: the folder came with the repository."""
    try:
        workspace.reject_foreign()
    except ModelInvalid as error:
        problems = [Mistake(file=one.file, message=one.message, fix=one.fix) for one in error.problems]
        return Failed(stage="check", kind=error.kind, message=error.message, fix=error.fix, problems=problems)
    return None


def _rows_of(path: Path) -> list[dict[str, Any]]:
    found = _read(path)
    known = [row for row in found if isinstance(row, dict)] if isinstance(found, list) else []
    return [row for row in known if row.get("stage") in stages.ORDER]


def _name(folder: Path, *, bundle: bool) -> str:
    """Return the name in model.yaml, or the folder's when that cannot be read."""
    from torchrelay.core.errors import TorchrelayError  # noqa: PLC0415 -- only for a model that failed before its verdict
    from torchrelay.model.model import load_model  # noqa: PLC0415

    try:
        return folder.resolve().name if bundle else load_model(folder).name
    except (TorchrelayError, OSError):
        return folder.resolve().name


def _built_layers(record: Any) -> list[dict[str, Any]]:
    layers = mapping(record).get("layers")
    return [one for one in layers if isinstance(one, dict)] if isinstance(layers, list) else []


def _bundled_layers(folder: Path) -> list[dict[str, Any]]:
    """Return the layers of an OCI layout's only image, with what each was made by."""
    blobs = folder / "blobs" / "sha256"

    def blob(descriptor: Any) -> dict[str, Any]:
        algorithm, _, digest = text(mapping(descriptor).get("digest")).partition(":")
        return mapping(_read(blobs / digest)) if algorithm == "sha256" and digest.isalnum() else {}

    manifests = mapping(_read(folder / "index.json")).get("manifests")
    manifest = blob(manifests[0]) if isinstance(manifests, list) and manifests else {}
    history = blob(manifest.get("config")).get("history")
    made = [text(mapping(one).get("created_by")) for one in history or [] if not mapping(one).get("empty_layer")]
    layers = _built_layers(manifest)
    made += [""] * (len(layers) - len(made))
    return [{**layer, "created_by": by} for layer, by in zip(layers, made, strict=False)]


def save(path: Path, outcome: Outcome) -> None:
    """Write the result file."""
    write_json(path, outcome.model_dump())
