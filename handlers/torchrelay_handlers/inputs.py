"""Makes samples of request bodies, by content type: JSON, CSV, text, multipart, images and other bytes.

Every way in which a body can be wrong ends in a `BadSample`; nothing else leaves these functions.
"""

import base64
import binascii
import csv
import io
import json
from email.message import Message
from email.parser import BytesParser
from email.policy import HTTP

from torchrelay_handlers.messages import Request
from torchrelay_handlers.problems import BadSample

try:
    import orjson
except ImportError:  # as in json_out
    orjson = None  # type: ignore[assignment]

INSTANCES = "instances"


class Rows(list[list[float]]):
    """The rows of a CSV body: each is a sample."""


_FORM = "application/x-www-form-urlencoded"
_MAGIC = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF8", b"II*\0", b"MM\0*")


def media_type(content_type: str) -> str:
    """`application/json` of `application/JSON; charset=utf-8`."""
    return content_type.partition(";")[0].strip().lower()


def is_image(body: bytes) -> bool:
    """Whether the first bytes are those of an image format that handlers may decode."""
    return body.startswith(_MAGIC) or (body[:4] == b"RIFF" and body[8:12] == b"WEBP")


def parse_json(body: bytes | bytearray | memoryview | str) -> object:
    """A JSON value of UTF-8 bytes. NaN, Infinity and other inventions are refused."""
    try:
        return orjson.loads(body) if orjson is not None else json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
        raise BadSample(f"the body is not valid JSON: {error}", kind="bad-json") from None


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


def parse_base64(text: str) -> bytes:
    """Bytes of strict base64 (RFC 4648 section 4); a `data:` prefix and line breaks are taken off first."""
    if text.startswith("data:"):
        head, comma, text = text.partition(",")
        if not comma or not head.endswith(";base64"):
            raise BadSample("a data: URL must look like data:image/png;base64,...", kind="bad-base64")
    try:
        return base64.b64decode(text.replace("\r", "").replace("\n", ""), validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadSample(f"the text is not valid base64: {error}", kind="bad-base64") from None


def parse_csv(text: str) -> Rows:
    """Rows of numbers, without a header line; each row is a sample."""
    rows = Rows()
    try:
        for line, row in enumerate(csv.reader(io.StringIO(text), strict=True), start=1):
            if row:
                rows.append([_number(cell, line) for cell in row])
    except csv.Error as error:
        raise BadSample(f"the body is not valid CSV: {error}", kind="bad-csv") from None
    if not rows:
        raise BadSample("the CSV holds no row", kind="bad-csv")
    return rows


def _number(cell: str, line: int) -> float:
    try:
        return float(cell)
    except ValueError:
        raise BadSample(f"line {line} of the CSV: {cell[:40]!r} is not a number", kind="bad-csv") from None


def parse_text(body: bytes | bytearray, content_type: str) -> str:
    """Text in the charset that the content type names, UTF-8 if none."""
    header = Message()
    header["content-type"] = content_type or "text/plain"
    charset = header.get_content_charset("utf-8")
    try:
        return body.decode(charset)
    except (UnicodeDecodeError, LookupError) as error:
        raise BadSample(f"the body is not text in {charset}: {error}", kind="bad-text") from None


def parse_multipart(body: bytes | bytearray, content_type: str) -> object:
    """The only part's bytes, or a dict of the parts by name."""
    head = b"content-type: " + content_type.encode("latin-1", "replace") + b"\r\n\r\n"
    message = BytesParser(policy=HTTP).parsebytes(head + bytes(body))
    fields: dict[str, object] = {}
    for part in message.iter_parts() if message.is_multipart() else ():
        name = part.get_param("name", header="content-disposition")
        fields[str(name or f"part{len(fields)}")] = part.get_payload(decode=True)
    if not fields:
        raise BadSample("the multipart body holds no part, or its boundary is wrong", kind="bad-multipart")
    return next(iter(fields.values())) if len(fields) == 1 else fields


def decode(request: Request) -> object:  # noqa: PLR0911 - one return per kind of body reads best
    """The request's body as a Python value: JSON, str, bytes, rows of numbers or a dict of form fields.

    Without a content type (or with one that says nothing) the bytes are looked at: an image stays bytes, what reads
    as JSON is JSON, the rest stays bytes.
    """
    body = request.body
    if request.parsed or not isinstance(body, bytes | bytearray | memoryview):
        if isinstance(body, str) and media_type(request.content_type) == "text/csv":
            return parse_csv(body)
        return body
    body = bytes(body)
    kind = media_type(request.content_type)
    if not body:
        raise BadSample("the body is empty", kind="empty-body")
    if kind == "application/json" or kind.endswith("+json"):
        return parse_json(body)
    if kind == "text/csv":
        return parse_csv(parse_text(body, request.content_type))
    if kind == "multipart/form-data":
        return parse_multipart(body, request.content_type)
    if kind in ("", "application/octet-stream", _FORM, "*/*"):
        return _look(body, kind)
    if kind.startswith("text/"):
        return parse_text(body, request.content_type)
    return body


def _look(body: bytes, kind: str) -> object:
    if not is_image(body):
        try:
            return parse_json(body)
        except BadSample:
            if kind == _FORM:  # what curl -d says when it is told nothing
                raise BadSample(
                    "a form is not understood; say what the body is, for example content-type: application/json",
                    status=415,
                    kind="unsupported-media-type",
                ) from None
    return body


def instances(value: object, most: int) -> list[object] | None:
    """The samples of `{"instances": [...]}` (Vertex AI), or None when `value` is a single sample."""
    if not isinstance(value, dict) or INSTANCES not in value or not value.keys() <= {INSTANCES, "parameters"}:
        return None
    rows = value[INSTANCES]
    if value.get("parameters"):
        raise BadSample("this model takes no parameters", kind="bad-instances")
    if not isinstance(rows, list) or not rows:
        raise BadSample("instances must be a list of at least one sample", kind="bad-instances", expected={INSTANCES: "[...]"})
    if len(rows) > most:
        raise BadSample(f"{len(rows)} instances in one request, at most {most} are taken", status=413, kind="too-many-instances")
    return rows
