"""The sample file's schema, and the `Sample` and `Expect` it is parsed into."""

import base64
import binascii
import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from torchrelay.core.text import printable, shown
from torchrelay.model.fields import legal_version, refuse, relative_path

SCHEMA_URL = "https://raw.githubusercontent.com/org/deploy/main/schema/sample.schema.json"
RECORD = "run `torchrelay samples record`, then review what it wrote"

_CONTENT_TYPE = re.compile(r"[A-Za-z0-9!#$&^_.+-]+/[A-Za-z0-9!#$&^_.+*-]+( *; *[\x21-\x7e ]+)?")

Mode = Literal["exact", "numeric", "top_k", "subset"]
Kind = Literal["json", "text", "bytes", "status", "missing"]


@dataclass(frozen=True)
class Expect:
    """The expected answer to a sample, and how it is compared.

    `kind` names the type of `value`: a JSON value, text, bytes, or nothing because only the status counts, or because it has
    not been recorded yet (`missing`).
    """

    status: int = 200
    mode: Mode = "exact"
    value: Any = None
    atol: float = 1e-5
    rtol: float = 1e-4
    k: int = 1
    kind: Kind = "json"


@dataclass(frozen=True)
class Sample:
    """One request, with the file (relative to the model directory) and line that it comes from."""

    name: str
    body: bytes
    content_type: str
    expect: Expect
    latency_ms: float | None
    file: str
    line: int
    version: str = ""
    public: bool = False

    def path(self, predict: str) -> str:
        """Return the path that the request is sent to; `predict` is the path of the default version."""
        return f"{predict}/{self.version}" if self.version else predict


def _content_type(value: str) -> str:
    if not _CONTENT_TYPE.fullmatch(value):
        raise refuse(f"{shown(value)} is not a content type", "write for example application/json")
    return value


def _base64(value: str) -> str:
    try:
        base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as error:
        raise refuse(f"is not base64: {printable(str(error))}", "encode it as `base64 -w0` does") from error
    return value


Base64 = Annotated[str, AfterValidator(_base64)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Request(_Part):
    """The request: exactly one of json, body, body_file and body_base64."""

    json_: Any = Field(None, alias="json", description="Body, sent as JSON.", examples=[{"instances": [[0, 1, 2, 3]]}])
    body: Any = Field(None, description="Body: text is sent unchanged, any other value as JSON.")
    body_file: Annotated[str, AfterValidator(relative_path)] | None = Field(
        None, description="File that contains the body, relative to the samples folder.", examples=["cat.jpg"]
    )
    body_base64: Base64 | None = Field(None, description="Body, encoded in base64.")
    content_type: Annotated[str, AfterValidator(_content_type)] | None = Field(
        None,
        description="Content type. Default: from the extension of body_file; application/json, text/plain or a byte stream.",
    )


class Compare(_Part):
    """How the answer is compared."""

    status: int = Field(200, ge=100, le=599, description="Expected HTTP status code.")
    compare: Mode | None = Field(
        None,
        description="How the answer is compared. exact (the default): equal; numeric: numbers within atol + rtol * expected; "
        "top_k: the same first k classes, in any order; "
        "subset: objects of the answer may have more keys than expected, and {} accepts every answer.",
    )
    atol: float = Field(1e-5, ge=0, description="Absolute tolerance of numeric.")
    rtol: float = Field(1e-4, ge=0, description="Relative tolerance of numeric.")
    k: int = Field(1, ge=1, le=10_000, description="Number of classes that top_k compares.")


class ExpectPart(Compare):
    """The expected answer: at most one of json, text and base64; none when only an error status counts."""

    json_: Any = Field(None, alias="json", description="Expected answer as a JSON value.")
    text: str | None = Field(None, description="Expected answer as text, compared character by character.")
    base64: Base64 | None = Field(None, description="Expected answer as bytes, encoded in base64.")


PUBLIC: Any = Field(
    False,
    description="Whether everyone may read this request and its answer: it becomes an example in /openapi.json. Default: false.",
)


class CompareFile(Compare):
    """NAME.compare.json, beside a pair of files."""

    public: bool = PUBLIC
    latency_ms: float | None = Field(None, gt=0, description="Longest time until the answer, in milliseconds. Default: no limit.")


class SampleFile(_Part):
    """A request, and the answer that the model must give to it."""

    schema_: str | None = Field(None, alias="$schema", description="Address of this file's JSON Schema, for editors.")
    request: Request = Field(description="The request to send.")
    version: Annotated[str, AfterValidator(legal_version)] | None = Field(
        None, description="Version that the request is sent to, one of model.yaml's `versions`. Default: the default version."
    )
    public: bool = PUBLIC
    expect: ExpectPart | None = Field(None, description=f"Expected answer. When it is missing: {RECORD}.")
    latency_ms: float | None = Field(None, gt=0, description="Longest time until the answer, in milliseconds. Default: no limit.")


def schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of samples/*.json."""
    body = SampleFile.model_json_schema(mode="validation")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": SCHEMA_URL, **body}
