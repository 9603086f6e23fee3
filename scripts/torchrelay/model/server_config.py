"""model-config.yaml: TorchServe's own file beside model.yaml, read as strictly; a setting in both files must be equal.

Keys and types are those of TorchServe 0.12 (frontend/archive ModelConfig), which only warns of a wrong type and ignores an
unknown key, and `system`, which the handler library reads (`maxGPUMemory` in MB, `extraFiles` archives with source files).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.alias_generators import to_camel

from torchrelay.core.errors import ModelInvalid, Problem
from torchrelay.core.text import field_name, shown
from torchrelay.model import fields, source_archives
from torchrelay.model.files import named_file, regular
from torchrelay.model.model import Model, load
from torchrelay.model.validation import explain
from torchrelay.model.yaml_document import Document, FieldPath, parse, read_bytes

FILE = "model-config.yaml"
LIMIT = 1 << 20

Positive = Annotated[int, Field(ge=1, le=2**31 - 1)]
Natural = Annotated[int, Field(ge=0, le=2**31 - 1)]
Free = dict[str, Any]


def _archives(value: str | list[str]) -> list[str]:
    names = [name.strip() for name in (value.split(",") if isinstance(value, str) else value)]
    if not names or not all(names):
        raise fields.refuse("names no archive", "write for example `extraFiles: source.tar.gz`")
    return [fields.relative_path(name) for name in names]


def _no_venv(value: bool) -> bool:
    if value:
        raise fields.refuse(
            "installs at start, and the image does not", "remove it: requirements are installed when the image is built"
        )
    return value


class _Part(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, alias_generator=to_camel, validate_by_alias=True
    )


class System(_Part):
    """The section that handlers read."""

    max_gpu_memory: Positive | None = Field(None, alias="maxGPUMemory")
    extra_files: Annotated[str | list[str], AfterValidator(_archives)] | None = None


class TorchRun(_Part):
    """Options of torchrun, for a model in several processes."""

    nnodes: Positive | None = None
    nproc_per_node: Positive | None = Field(None, alias="nproc-per-node")
    rdzv_backend: str | None = Field(None, alias="rdzv-backend")
    rdzv_endpoint: str | None = Field(None, alias="rdzv-endpoint")
    rdzv_conf: str | None = Field(None, alias="rdzv-conf")
    monitor_interval: Positive | None = Field(None, alias="monitor-interval")
    node_rank: Natural | None = Field(None, alias="node-rank")
    omp_number_threads: Positive | None = Field(None, alias="OMP_NUMBER_THREADS")


class ServerConfig(_Part):
    """The whole file."""

    min_workers: Annotated[int, Field(ge=1, le=256)] | None = Field(
        None, description="Fewest workers: processes that serve the model."
    )
    max_workers: Annotated[int, Field(ge=1, le=256)] | None = Field(None, description="Most workers.")
    batch_size: Annotated[int, Field(ge=1, le=1024)] | None = Field(None, description="Most requests in one batch.")
    max_batch_delay: Annotated[int, Field(ge=1, le=60_000)] | None = Field(
        None, description="Milliseconds that a batch waits until it is full."
    )
    response_timeout: Annotated[int, Field(ge=1, le=86_400)] | None = Field(
        None, description="Seconds that a worker has for one batch."
    )
    startup_timeout: Annotated[int, Field(ge=1, le=86_400)] | None = Field(
        None, description="Seconds that a worker has to load the model."
    )
    device_type: Literal["cpu", "gpu"] | None = Field(None, description="The kind of device that serves the model.")
    device_ids: list[Annotated[int, Field(ge=0, le=63)]] | None = Field(
        None, min_length=1, description="Numbers of the GPUs to use."
    )
    parallel_type: Literal["pp", "tp", "pptp", "custom"] | None = Field(
        None, description="How a model in several processes is split: pipeline (pp), tensor (tp), both (pptp) or custom."
    )
    parallel_level: Positive | None = Field(None, description="Number of processes of one worker.")
    torchrun: TorchRun | None = Field(None, description="Options of torchrun.")
    max_retry_timeout_in_sec: Positive | None = Field(
        None, description="Seconds that TorchServe goes on restarting a worker that fails."
    )
    client_timeout_in_mills: Natural | None = Field(
        None, description="Milliseconds after which a waiting request is dropped; 0 means never."
    )
    job_queue_size: Positive | None = Field(None, description="Most requests that wait for the model.")
    use_job_ticket: bool | None = Field(None, description="Whether a request is accepted only while a worker is free.")
    sequence_max_idle_msec: Positive | None = Field(
        None, alias="sequenceMaxIdleMSec", description="Milliseconds without a request after which a sequence ends."
    )
    sequence_timeout_msec: Positive | None = Field(
        None, alias="sequenceTimeoutMSec", description="Milliseconds after which a request in a sequence times out."
    )
    max_sequence_job_queue_size: Positive | None = Field(None, description="Most requests that wait in one sequence.")
    max_num_sequence: Positive | None = Field(None, description="Most sequences at once.")
    continuous_batching: bool | None = Field(None, description="Whether requests join a batch that is running.")
    sequence_batching: bool | None = Field(None, description="Whether batches are made from requests of sequences.")
    async_communication: bool | None = Field(None, description="Whether the server and its workers communicate asynchronously.")
    use_venv: Annotated[bool, AfterValidator(_no_venv)] | None = Field(None, description="Must be false: the image is complete.")
    system: System | None = Field(None, description="The section that handlers read.")
    handler: Free | None = Field(None, description="Free settings of the handler.")
    pt2: Free | None = Field(None, description="Free settings of torch.compile and torch.export.")
    pippy: Free | None = Field(None, description="Free settings of PiPPy.")
    deepspeed: Free | None = Field(None, description="Free settings of DeepSpeed.")
    micro_batching: Free | None = Field(None, alias="micro_batching", description="Free settings of micro-batching.")
    dali: Free | None = Field(None, description="Free settings of NVIDIA DALI.")

    @model_validator(mode="after")
    def _workers_agree(self) -> "ServerConfig":
        if self.min_workers is not None and self.max_workers is not None and self.min_workers > self.max_workers:
            raise fields.refuse("has a minWorkers above maxWorkers", "write both alike: nothing scales them here")
        if self.device_ids and len(set(self.device_ids)) != len(self.device_ids):
            raise fields.refuse("names a GPU twice in deviceIds", "keep one")
        if self.device_ids and self.device_type == "cpu":
            raise fields.refuse("has deviceIds, which are GPUs, and deviceType cpu", "remove one")
        return self


_HINTS = {
    "maxBatchDelay": "write at least 1: TorchServe treats 0 as 100 ms",
    "minWorkers": "write at least 1: nothing would start one later",
    "deviceType": "a model is served on cpu or gpu",
}

# Where model.yaml says the same.
_ALIKE: dict[str, FieldPath] = {
    "minWorkers": ("workers",),
    "batchSize": ("batch", "size"),
    "maxBatchDelay": ("batch", "delay_ms"),
    "responseTimeout": ("timeouts", "response_s"),
    "startupTimeout": ("timeouts", "startup_s"),
    "deviceType": ("device",),
}


@dataclass(frozen=True)
class ServerConfigFile:
    """The file's content: `values` by key, as written; `files` of its extraFiles archives, by name in the model archive."""

    document: Document | None = None
    values: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def rest(self) -> dict[str, Any]:
        """Return what the archive's file gets beside model.yaml's fields; the archive has the extra files already, unpacked."""
        settings = {key: value for key, value in self.values.items() if key not in _ALIKE and value is not None}
        system = {
            key: value for key, value in (settings.pop("system", None) or {}).items() if key != "extraFiles" and value is not None
        }
        return settings | ({"system": system} if system else {})


def read(model_dir: Path) -> ServerConfigFile:
    """Read the model directory's model-config.yaml, and the archives that its `system.extraFiles` names; empty without one.

    Raises:
        ModelInvalid: with every mistake in it.
    """
    path = model_dir / FILE
    if not path.is_file():
        return ServerConfigFile()
    document = parse(read_bytes(named_file(model_dir, FILE), FILE, LIMIT), FILE)
    problems = list(document.problems)
    config = ServerConfig()
    try:
        config = ServerConfig.model_validate(document.value)
    except ValidationError as error:
        problems += explain(error, document, ServerConfig, _HINTS)
    files, file_problems = _unpacked(model_dir, document, config)
    if problems + file_problems:
        raise ModelInvalid(problems + file_problems)
    return ServerConfigFile(document, document.value, files)


def load_model(model_dir: Path) -> Model:
    """The model that model.yaml and model-config.yaml declare together; the files that they name are not looked at (see `check`).

    Raises:
        ModelInvalid: with every mistake in the two.
    """
    loaded = load(model_dir)
    model, problems = applied(loaded.model, read(model_dir), loaded.document)
    if loaded.problems + problems:
        raise ModelInvalid(loaded.problems + problems)
    return model


def _unpacked(model_dir: Path, document: Document, config: ServerConfig) -> tuple[dict[str, bytes], list[Problem]]:
    files: dict[str, bytes] = {}
    problems: list[Problem] = []
    for name in (config.system.extra_files if config.system else None) or ():
        where = ("system", "extraFiles")
        try:
            members = source_archives.read(regular(model_dir, name))
        except ValueError as error:  # UnusableFile too
            problems.append(document.problem(where, f"{shown(name)} {error}", "pack it with `tar -czf FILE -C FOLDER .`"))
            continue
        for twice in sorted(files.keys() & members.keys()):
            problems.append(document.problem(where, f"{shown(twice)} is in two of the archives", "keep one"))
        files |= members
    return files, problems


def applied(model: Model, config_file: ServerConfigFile, document: Document | None = None) -> tuple[Model, list[Problem]]:
    """The model with the file's values where model.yaml says nothing, and a problem for each on which the two differ.

    `document` is model.yaml's, for its lines. Applied values count as written there, so applying the file again changes nothing.
    """
    problems: list[Problem] = []
    for key, path, value in _entries(config_file):
        if path[-1] == "gpu" and model.device != "gpu":
            continue  # reported already
        current, is_set = _current(model, path)
        if not is_set:
            model = _with(model, path, value)
        elif current != value and config_file.document is not None and not (path[-1] == "gpu" and current > value):
            mine = f"means {field_name(path)}: {value}" if key == "deviceIds" else f"is {shown(value)}"
            other = f"{field_name(path)} is {shown(current)}" + _place(document, path)
            fix = "say it in one of the two files, or alike"
            problems.append(config_file.document.problem((key,), f"{mine}, and {other}", fix))
    return model, problems


def collisions(config_file: ServerConfigFile, taken: Mapping[str, str], reserved: Iterable[str]) -> list[Problem]:
    """A problem for each extra file whose name another file of the archive has; `taken` is folded name -> path."""
    problems = []
    if config_file.document is None:
        return []
    for name in config_file.files:
        folded = name.casefold()
        if folded.split("/")[0] in {*reserved, FILE}:
            message = f"unpacks to {shown(name)}, a name that the archive needs itself"
        elif folded in taken:
            message = f"unpacks to {shown(name)}, and {shown(taken[folded])} gets that name already"
        else:
            continue
        problems.append(config_file.document.problem(("system", "extraFiles"), message, "keep one"))
    return problems


def _place(document: Document | None, path: FieldPath) -> str:
    line = document.line(path) if document is not None else None
    return f" at model.yaml:{line}" if line else " in model.yaml"


def _entries(config_file: ServerConfigFile) -> list[tuple[str, FieldPath, Any]]:
    values = {key: value for key, value in config_file.values.items() if value is not None}
    entries: list[tuple[str, FieldPath, Any]] = [(key, path, values[key]) for key, path in _ALIKE.items() if key in values]
    if "maxWorkers" in values and "minWorkers" not in values:
        entries.append(("maxWorkers", ("workers",), values["maxWorkers"]))
    if ids := values.get("deviceIds"):
        entries += [("deviceIds", ("device",), "gpu"), ("deviceIds", ("resources", "gpu"), max(ids) + 1)]
    return entries


def _current(model: Model, path: FieldPath) -> tuple[Any, bool]:
    part: BaseModel = model
    for name in path[:-1]:
        part = getattr(part, str(name))
    return getattr(part, str(path[-1])), path[-1] in part.model_fields_set


def _with(model: Model, path: FieldPath, value: Any) -> Model:
    if len(path) == 1:
        return model.model_copy(update={str(path[0]): value})
    first, last = str(path[0]), str(path[1])
    return model.model_copy(update={first: getattr(model, first).model_copy(update={last: value})})
