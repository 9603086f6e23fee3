"""release.json: the build job's description of a verified image for the deploy job; its JSON Schema, and its parts as types."""

import json
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from torchrelay.core.errors import BundleInvalid
from torchrelay.core.json_text import parse_untrusted
from torchrelay.core.text import shown
from torchrelay.model.fields import legal_version, refuse
from torchrelay.model.model import Model
from torchrelay.model.origin import Origin
from torchrelay.model.sample_file import Expect, Kind, Mode, Sample
from torchrelay.oci.blobs import Blob, from_bytes
from torchrelay.oci.layout import MOST_BYTES, REBUNDLE, BundlePart, Described, Digest
from torchrelay.verification.verdict import SCHEMA, Verdict

SCHEMA_URL = "https://raw.githubusercontent.com/org/deploy/main/schema/release.schema.json"
MOST_SAMPLES = 1000


def _one_line(value: str) -> str:
    if not value.isprintable():
        raise refuse(f"{shown(value)} contains a character that cannot be printed")
    return value


Line = Annotated[str, AfterValidator(_one_line), Field(max_length=1024)]


class Expected(BundlePart):
    """The expected answer to a sample; the value is in a blob, as JSON, text or bytes."""

    kind: Kind = Field(description="Kind of the value; `status`: only the status counts.")
    status: int = Field(ge=100, le=599, description="Status code.")
    mode: Mode = Field(description="How the answer is compared.")
    atol: float = Field(ge=0, description="Absolute tolerance of the numeric mode.")
    rtol: float = Field(ge=0, description="Relative tolerance of the numeric mode.")
    k: int = Field(ge=1, le=10_000, description="Number of classes that the top_k mode compares.")
    value: Described | None = Field(description="The answer; null when only the status counts.")


class SampleRow(BundlePart):
    """One sample."""

    name: Line = Field(min_length=1, description="Name of the sample.")
    content_type: Line = Field(description="Content type of the request.")
    body: Described = Field(description="Body of the request.")
    expect: Expected = Field(description="The expected answer.")
    latency_ms: float | None = Field(gt=0, description="Longest time for the answer, in milliseconds.")
    file: Line = Field(description="The sample's file, relative to the model directory.")
    line: int = Field(ge=0, le=MOST_BYTES, description="The line in that file.")
    version: Annotated[str, AfterValidator(legal_version)] | None = Field(
        None, description="The version that the request is sent to. Default: the default version."
    )


class ImageRow(BundlePart):
    """The image, in the OCI layout beside this file."""

    manifest: Digest = Field(description="Digest of the image's manifest, by which a registry identifies it.")
    config: Digest = Field(description="Digest of the image's config, which the verdict is bound to.")


class SourceRow(BundlePart):
    """The origin of the image."""

    repository: Line = Field(description="owner/name.")
    commit: Line = Field(description="The git commit.")
    ref: Line = Field(description="The git ref.")
    sequence: int = Field(ge=0, le=10**9, description="Number of commits up to this one; 0: unknown.")
    run: Line = Field(description="Address of the workflow run.")
    actor: Line = Field(description="User who started the run.")


class ReleaseFile(BundlePart):
    """The result of a build job: a verified image, the conditions of its verification, and its origin."""

    schema_: Literal[1] = Field(alias="schema", description="Format version of this file.")
    model: Model = Field(description="The parsed model.yaml.")
    version: Annotated[str, AfterValidator(legal_version)] = Field(description="Version of the model.")
    source: SourceRow
    image: ImageRow
    verdict: Verdict
    samples: list[SampleRow] = Field(max_length=MOST_SAMPLES, description="Every sample that the image was verified with.")


def schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of release.json."""
    return {"$schema": SCHEMA, "$id": SCHEMA_URL, **ReleaseFile.model_json_schema(mode="validation")}


def portable(model: Model) -> dict[str, Any]:
    """Return a model as JSON, its targets in the order of model.yaml: the first is the default."""
    fields = model.model_dump(mode="json", by_alias=True)
    fields["targets"] = {name: fields["targets"][name] for name in model.targets.declared}
    return fields


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
    """Return the sample of a row and the content of its blobs. Raises BundleInvalid for a value that does not match its kind."""
    expected = row.expect
    if (value is None) != (expected.kind in ("status", "missing")):
        raise BundleInvalid(
            f"release.json: sample {shown(row.name)} expects {expected.kind}, but its value does not match", REBUNDLE
        )
    expect = Expect(expected.status, expected.mode, _decoded(row, value), expected.atol, expected.rtol, expected.k, expected.kind)
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
        return value.decode("utf-8", "surrogatepass") if row.expect.kind == "text" else parse_untrusted(value)
    except ValueError as error:
        raise BundleInvalid(f"release.json: the answer to sample {shown(row.name)} is not {row.expect.kind}", REBUNDLE) from error


def source_row(source: Origin) -> dict[str, Any]:
    """Return the origin of a version, cut to the lengths that the file allows."""
    fields = {key: getattr(source, key) for key in ("repository", "commit", "ref", "run", "actor")}
    return {
        **{key: "".join(c for c in text if c.isprintable())[:1024] for key, text in fields.items()},
        "sequence": source.sequence,
    }
