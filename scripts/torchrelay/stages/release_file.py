"""release.json: what a build job tells the deploy job of the image that it proved; its JSON Schema, and its parts as types."""

import json
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from torchrelay.core.errors import BundleInvalid
from torchrelay.core.text import shown
from torchrelay.model.fields import legal_version, refuse
from torchrelay.model.model import Model
from torchrelay.model.origin import Source
from torchrelay.model.sample_file import Expect, Kind, Mode, Sample
from torchrelay.oci.blobs import Blob, from_bytes
from torchrelay.oci.layout import MOST_BYTES, REBUNDLE, BundlePart, Described, Digest
from torchrelay.verification.verdict import SCHEMA, Verdict

SCHEMA_URL = "https://raw.githubusercontent.com/org/deploy/main/schema/release.schema.json"
MOST_SAMPLES = 1000


def _one_line(value: str) -> str:
    if not value.isprintable():
        raise refuse(f"{shown(value)} holds a character that cannot be printed")
    return value


Line = Annotated[str, AfterValidator(_one_line), Field(max_length=1024)]


class Expected(BundlePart):
    """What answers a sample; the value lies in a blob, as JSON, text or bytes."""

    kind: Kind = Field(description="What the value is; status: the status alone counts.")
    status: int = Field(ge=100, le=599, description="Status code.")
    mode: Mode = Field(description="How the answer is compared.")
    atol: float = Field(ge=0, description="Absolute tolerance of numeric.")
    rtol: float = Field(ge=0, description="Relative tolerance of numeric.")
    k: int = Field(ge=1, le=10_000, description="Number of classes that top_k compares.")
    value: Described | None = Field(description="The answer; null where the status alone counts.")


class SampleRow(BundlePart):
    """One sample."""

    name: Line = Field(min_length=1, description="Its name.")
    content_type: Line = Field(description="Content type of the request.")
    body: Described = Field(description="Body of the request.")
    expect: Expected = Field(description="What must come back.")
    latency_ms: float | None = Field(gt=0, description="Longest time for the answer, in milliseconds.")
    file: Line = Field(description="The file that it comes from, relative to the model directory.")
    line: int = Field(ge=0, le=MOST_BYTES, description="The line of that file.")
    version: Annotated[str, AfterValidator(legal_version)] | None = Field(
        None, description="The version that is asked. Default: the default one."
    )


class ImageRow(BundlePart):
    """The image: an OCI layout beside this file holds it."""

    manifest: Digest = Field(description="Digest of its manifest: what a registry knows it by.")
    config: Digest = Field(description="Digest of its config: what was proved.")


class SourceRow(BundlePart):
    """Where it comes from."""

    repository: Line = Field(description="owner/name.")
    commit: Line = Field(description="The git commit.")
    ref: Line = Field(description="The git ref.")
    sequence: int = Field(ge=0, le=10**9, description="Commits that lead to it; 0: unknown.")
    run: Line = Field(description="Address of the workflow's run.")
    actor: Line = Field(description="Who started it.")


class ReleaseFile(BundlePart):
    """What a build job hands over: a proved image, under what it was proved, and where it comes from."""

    schema_: Literal[1] = Field(alias="schema", description="Form of this file.")
    model: Model = Field(description="model.yaml, as it was read.")
    version: Annotated[str, AfterValidator(legal_version)] = Field(description="Version of the model.")
    source: SourceRow
    image: ImageRow
    verdict: Verdict
    samples: list[SampleRow] = Field(max_length=MOST_SAMPLES, description="Every sample that it was proved with.")


def schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of release.json."""
    return {"$schema": SCHEMA, "$id": SCHEMA_URL, **ReleaseFile.model_json_schema(mode="validation")}


def portable(model: Model) -> dict[str, Any]:
    """Return a model as it would be written down, its targets in the order of model.yaml: the first is the default."""
    told = model.model_dump(mode="json", by_alias=True)
    told["targets"] = {name: told["targets"][name] for name in model.targets.declared}
    return told


def sample_row(sample: Sample) -> tuple[dict[str, Any], list[Blob]]:
    """Return a sample's row, and the blobs that it names."""
    body, expect = from_bytes(sample.body), sample.expect
    value = None if expect.kind in ("status", "missing") else from_bytes(_encoded(expect))
    expected = {key: getattr(expect, key) for key in ("kind", "status", "mode", "atol", "rtol", "k")}
    row = {
        **{key: getattr(sample, key) for key in ("name", "content_type", "latency_ms", "file", "line")},
        **({"version": sample.version} if sample.version else {}),
        "body": {"digest": body.digest, "size": body.size},
        "expect": {**expected, "value": value and {"digest": value.digest, "size": value.size}},
    }
    return row, [body, value] if value else [body]


def sample_of(row: SampleRow, body: bytes, value: bytes | None) -> Sample:
    """Return the sample of a row and of what its blobs hold. Raises BundleInvalid for a value that is not of its kind."""
    told = row.expect
    if (value is None) != (told.kind in ("status", "missing")):
        raise BundleInvalid(f"release.json: sample {shown(row.name)} expects {told.kind}, and its value says otherwise", REBUNDLE)
    expect = Expect(told.status, told.mode, _decoded(row, value), told.atol, told.rtol, told.k, told.kind)
    return Sample(row.name, body, row.content_type, expect, row.latency_ms, row.file, row.line, row.version or "")


def _encoded(expect: Expect) -> bytes:
    if expect.kind == "bytes":
        return bytes(expect.value)
    if expect.kind == "text":
        return str(expect.value).encode("utf-8", "surrogatepass")
    return json.dumps(expect.value, ensure_ascii=True).encode()


def _decoded(row: SampleRow, value: bytes | None) -> Any:
    try:
        if value is None or row.expect.kind == "bytes":
            return value
        return value.decode("utf-8", "surrogatepass") if row.expect.kind == "text" else json.loads(value)
    except (ValueError, RecursionError) as error:
        raise BundleInvalid(f"release.json: the answer to sample {shown(row.name)} is no {row.expect.kind}", REBUNDLE) from error


def source_row(source: Source) -> dict[str, Any]:
    """Return where a version comes from, cut to what the file takes."""
    told = {key: getattr(source, key) for key in ("repository", "commit", "ref", "run", "actor")}
    return {**{key: "".join(c for c in text if c.isprintable())[:1024] for key, text in told.items()}, "sequence": source.sequence}
