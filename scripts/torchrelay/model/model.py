"""The fields of model.yaml; the JSON Schema for editors and the reference page are generated from them."""

import shlex
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
)

from torchrelay.core.errors import ModelInvalid, Problem
from torchrelay.core.text import printable
from torchrelay.core.workspace import require_directory
from torchrelay.model import fields, quantities
from torchrelay.model.files import named_file
from torchrelay.model.handlers import SHIPPED
from torchrelay.model.targets import Part, Targets
from torchrelay.model.validation import explain
from torchrelay.model.weights_uri import Weights, from_text
from torchrelay.model.yaml_document import MAX_BYTES, Document, FieldPath, parse, read_bytes

__all__ = ["FILE", "Loaded", "Model", "Weights", "load", "load_model", "predict_path", "schema"]

FILE = "model.yaml"
SCHEMA_URL = "https://raw.githubusercontent.com/org/deploy/main/schema/model.schema.json"

RelativePath = Annotated[str, AfterValidator(fields.relative_path)]
PythonFile = Annotated[str, AfterValidator(fields.relative_path), AfterValidator(fields.python_file)]


class Batch(Part):
    """Batching: several requests are answered by one pass through the network."""

    size: int = Field(
        8, ge=1, le=1024, description="Largest number of requests in one batch. 1 switches batching off.", examples=[32]
    )
    delay_ms: int = Field(
        1,
        ge=1,
        le=60_000,
        description="Longest wait for a batch to fill, in milliseconds. A single request waits this long too.",
        examples=[10],
    )


class Timeouts(Part):
    """Time limits, in seconds."""

    startup_s: int = Field(
        120,
        ge=1,
        le=86_400,
        description="Seconds that a worker may take to load the model and answer for the first time.",
        examples=[600],
    )
    response_s: int = Field(
        60, ge=1, le=86_400, description="Seconds that one batch may take; after that its worker is restarted.", examples=[120]
    )
    drain_s: int = Field(
        25, ge=1, le=3600, description="Seconds that running requests get to finish when the container is stopped.", examples=[60]
    )


class Resources(Part):
    """The resources of one container."""

    cpu: float = Field(1, gt=0, le=1024, description="CPU cores of one container; fractions are allowed.", examples=[0.5, 4])
    memory: Annotated[str, AfterValidator(fields.memory_quantity)] = Field(
        "2Gi",
        description="Memory of one container, at least 256Mi. Units: Mi, Gi, Ti (powers of 1024), M, G, T (powers of 1000).",
        examples=["512Mi"],
    )
    gpu: int = Field(0, ge=0, le=64, description="GPUs of one container. When device is gpu, 0 means 1.", examples=[1])


class Model(Part):
    """A model to serve: its weights, its handler, their requirements and the targets."""

    name: Annotated[str, AfterValidator(fields.legal_name)] = Field(
        description="Name of the model, its archive, image, endpoint and route /predictions/<name>. At most 63 characters.",
        examples=["digits"],
        json_schema_extra={"pattern": f"^{fields.NAME.pattern}$"},
    )
    version: Annotated[str, AfterValidator(fields.legal_version)] | None = Field(
        None,
        description="Version of the model and tag of its image. Default: the git commit (12 digits), or 1.0 outside of git.",
        examples=["1.10"],
        json_schema_extra={"pattern": f"^{fields.VERSION.pattern}$"},
    )
    weights: Annotated[Weights, BeforeValidator(from_text, json_schema_input_type=str | Weights)] = Field(
        description="Address of the weights file, or a mapping with `uri`, `sha256` and `format`.",
        examples=["model.pt", "s3://bucket/model.safetensors"],
    )
    handler: Annotated[str, AfterValidator(fields.handler)] = Field(
        description=f"A shipped handler ({', '.join(SHIPPED)}), or your own file as handler.py or handler.py:attribute.",
        examples=[*SHIPPED, "handler.py"],
    )
    handler_args: dict[str, Any] = Field(
        {}, description="Options of a shipped handler; see its page for their names. Default: none.", examples=[{"shape": [4]}]
    )
    model_file: PythonFile | None = Field(
        None,
        description="Python file with `init_function` or exactly one nn.Module. Default: none, for TorchScript and .pt2 weights.",
        examples=["model.py"],
    )
    init_args: dict[str, Any] = Field(
        {}, description="Keyword arguments of `init_function` or of the network's class. Default: none.", examples=[{"width": 16}]
    )
    requirements: RelativePath | None = Field(
        None,
        description="Requirements file in pip's format, installed when the image is built. Default: requirements.txt if it exists.",
    )
    extra_files: list[RelativePath] = Field(
        [],
        description="Files and folders to include in the archive, under their relative path. Default: none.",
        examples=[["vocab.txt"]],
    )
    versions: list[RelativePath] = Field(
        [],
        description="Archives (.mar) of other versions, served at /predictions/<name>/<version> as well. Default: none.",
        examples=[["versions/1.0.mar"]],
    )
    default_version: Annotated[str, AfterValidator(fields.legal_version)] | None = Field(
        None,
        description="Version that answers at /predictions/<name>. Default: the version of this model.yaml.",
        json_schema_extra={"pattern": f"^{fields.VERSION.pattern}$"},
    )
    samples: RelativePath = Field("samples", description="Folder of samples: requests with their expected answers.")
    device: Literal["cpu", "gpu"] = Field("cpu", description="Device that the model runs on.")
    batch: Batch = Field(Batch(), description="Batching of requests.")
    workers: int = Field(
        1, ge=1, le=256, description="Number of worker processes, each with its own copy of the model.", examples=[2]
    )
    timeouts: Timeouts = Field(Timeouts(), description="Time limits of the start, of requests and of the stop, in seconds.")
    trusted_proxies: list[Annotated[str, AfterValidator(fields.network)]] = Field(
        [],
        description="Networks of load balancers before the endpoint, whose X-Forwarded-For names the client: for the access log, "
        "and for the limits of each client. Default: none.",
        examples=[["10.0.0.0/8"]],
    )
    max_body_mb: int = Field(6, ge=1, le=1024, description="Largest request body, in MiB.", examples=[32])
    resources: Resources = Field(Resources(), description="CPU, memory and GPUs of one container.")
    environment: dict[
        Annotated[str, AfterValidator(fields.variable_name)],
        Annotated[
            str,
            AfterValidator(fields.variable_value),
            Field(json_schema_extra={"type": ["string", "number", "boolean"]}),
        ],
    ] = Field(
        {},
        description="Environment variables of the server. Everyone with the image can read them: no secrets. Default: none.",
    )
    targets: Targets = Field(Targets(), description="Targets that the model is deployed to, with their options. Default: docker.")

    @property
    def handler_file(self) -> str | None:
        """The Python file of the handler; None for a shipped one."""
        path = self.handler.partition(":")[0]
        return path if path.endswith(".py") else None

    @property
    def handler_attribute(self) -> str | None:
        """What `handler.py:attribute` names."""
        return self.handler.partition(":")[2] or None

    @property
    def memory_bytes(self) -> int:
        """Memory of one container, in bytes."""
        return quantities.parse(self.resources.memory)

    @property
    def first_target(self) -> str:
        """The target that model.yaml names first; docker when it names none."""
        return next(iter(self.targets.declared), "docker")

    @property
    def gpus(self) -> int:
        """GPUs of one container."""
        return max(1, self.resources.gpu) if self.device == "gpu" else 0


_HINTS = {
    "name": "write `name: digits`",
    "weights": "write `weights: model.pt` or an address",
    "handler": f"write one of {', '.join(SHIPPED)}, or handler.py",
    "batch.delay_ms": "write at least 1: TorchServe treats 0 as 100 ms",
    "resources.cpu": "write cores, such as 0.5",
}

# Text keeps the form in which it was written: `version: 1.10` is not 1.1 and `environment: {PORT: 080}` not 80.
_TEXT: tuple[FieldPath, ...] = (
    ("name",),
    ("version",),
    ("default_version",),
    ("weights",),
    ("weights", "uri"),
    ("weights", "sha256"),
    ("handler",),
    ("model_file",),
    ("requirements",),
    ("samples",),
    ("extra_files", "*"),
    ("versions", "*"),
    ("environment", "*"),
    ("trusted_proxies", "*"),
    ("resources", "memory"),
)


class Loaded(BaseModel):
    """model.yaml as far as it could be read; in `model` the top-level keys named by `bad` are placeholders."""

    model_config = ConfigDict(arbitrary_types_allowed=True, frozen=True)

    document: Document
    model: Model
    bad: frozenset[str]
    problems: list[Problem]


def load(model_dir: Path) -> Loaded:
    """Read model.yaml and keep every mistake for the caller, who may find more in the files it names.

    Raises:
        ModelInvalid: there is nothing to go on with: no file, or no YAML mapping in it.
    """
    require_directory(model_dir)
    try:
        data = read_bytes(named_file(model_dir, FILE), FILE, MAX_BYTES)
    except ModelInvalid as error:
        if not (model_dir / FILE).exists():
            fix = f"run `torchrelay init {shlex.quote(printable(str(model_dir)))}`"
            raise ModelInvalid([Problem(FILE, None, "", "does not exist", fix)]) from error
        raise
    return from_document(parse(data, FILE), model_dir)


def from_document(document: Document, model_dir: Path) -> Loaded:
    """The model out of parsed YAML; `model_dir` is only asked whether requirements.txt is there."""
    data = _as_written(document)
    problems = list(document.problems)
    bad: frozenset[str] = frozenset()
    try:
        model = Model.model_validate(data)
    except ValidationError as error:
        problems += explain(error, document, Model, _HINTS)
        bad = frozenset(str(detail["loc"][0]) for detail in error.errors(include_url=False))
        placeholders = {"name": "model", "weights": "weights", "handler": SHIPPED[0]}
        rest = {key: value for key, value in data.items() if key not in bad}
        model = Model.model_validate(placeholders | rest)
    needed = quantities.body_memory(model.memory_bytes, model.max_body_mb << 20)
    if needed > model.memory_bytes and not bad & {"resources", "max_body_mb"}:
        has = (
            f"resources.memory is {model.memory_bytes >> 20} MiB, and bodies of this size need {needed >> 20} MiB beside the model"
        )
        problems.append(document.problem(("max_body_mb",), has, "lower it, or raise resources.memory"))
    if "requirements" not in data and (model_dir / "requirements.txt").is_file():
        model = model.model_copy(update={"requirements": "requirements.txt"})
    return Loaded(document=document, model=model, bad=bad, problems=problems)


def load_model(model_dir: Path) -> Model:
    """The model that model.yaml declares; the files that it names are not looked at (see `check`).

    Raises:
        ModelInvalid: with every mistake in model.yaml.
    """
    loaded = load(model_dir)
    if loaded.problems:
        raise ModelInvalid(loaded.problems)
    return loaded.model


def _as_written(document: Document) -> dict[str, Any]:
    data = dict(document.value)
    for path, text in document.texts.items():
        pattern = (*path[:-1], "*") if path and (*path[:-1], "*") in _TEXT else path
        if pattern in _TEXT and text not in {"", "~", "null", "Null", "NULL"}:
            _put(data, path, text)
    return data


def _put(data: dict[str, Any], path: FieldPath, text: str) -> None:
    """Replace the value at a path of one or two parts, copying what is shared with the document."""
    first = str(path[0])
    if len(path) == 1:
        data[first] = text
    else:
        data[first] = data[first].copy()
        data[first][path[1]] = text


def predict_path(name: str) -> str:
    """Return the path at which a model answers requests."""
    return f"/predictions/{name}"


def schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of model.yaml."""
    body = Model.model_json_schema(mode="validation")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": SCHEMA_URL, **body}
