"""Turns request bodies into samples, by content type: JSON, CSV, text, .npy, forms, images and other bytes.

Every way in which a body can be wrong ends in a `BadSample`; nothing else leaves these functions.
"""

from torchrelay_handlers.bodies.forms import Part, parse_multipart
from torchrelay_handlers.bodies.parsers import charset_of, parse_csv, parse_json, parse_npy, parse_text
from torchrelay_handlers.messages import Request
from torchrelay_handlers.problems import BadSample

INSTANCES = "instances"
NPY = ("application/x-npy", "application/npy")
_FORM = "application/x-www-form-urlencoded"
_MAGIC = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF8", b"II*\0", b"MM\0*")


def media_type(content_type: str) -> str:
    """`application/json` for `application/JSON; charset=utf-8`."""
    return content_type.partition(";")[0].strip().lower()


def is_image(body: bytes) -> bool:
    """Whether the first bytes are those of an image format that handlers may decode."""
    return body.startswith(_MAGIC) or (body[:4] == b"RIFF" and body[8:12] == b"WEBP")


def decode(request: Request, most: int | None = None) -> object:
    """The request's body as a Python value: JSON, str, bytes, rows of numbers, an array or a dict of form fields.

    Without a content type (or with a generic one) the bytes decide: an image stays bytes, what parses
    as JSON is JSON, the rest stays bytes. A CSV of more than `most` rows is refused before the rest of it is parsed.
    """
    body = request.body
    if request.parsed or not isinstance(body, bytes | bytearray | memoryview):
        if isinstance(body, str) and media_type(request.content_type) == "text/csv":
            return parse_csv(body, most)
        return body
    body = bytes(body)
    if not body:
        raise BadSample("the body is empty", kind="empty-body")
    if request.content_type == "application/json":  # most requests
        return parse_json(body)
    return _by_type(body, request.content_type, most)


def _by_type(body: bytes, content_type: str, most: int | None) -> object:  # noqa: PLR0911 - one return per kind of body reads best
    kind = media_type(content_type)
    if kind == "application/json" or kind.endswith("+json"):
        return parse_json(body if charset_of(content_type) == "utf-8" else parse_text(body, content_type))
    if kind == "text/csv":
        return parse_csv(parse_text(body, content_type), most)
    if kind == "multipart/form-data":
        return _fields(parse_multipart(body, content_type), most)
    if kind in NPY:
        return parse_npy(body)
    if kind in ("", "application/octet-stream", _FORM, "*/*"):
        return _by_first_bytes(body, kind)
    if kind.startswith("text/"):
        return parse_text(body, content_type)
    return body


def _fields(parts: list[Part], most: int | None) -> object:
    """The only part's value, or a dict of the parts by name."""
    fields = {part.name: _field(part, most) for part in parts}
    return next(iter(fields.values())) if len(fields) == 1 else fields


def _field(part: Part, most: int | None) -> object:
    """A part by its own content type. One that names none is text (RFC 7578 section 4.4), or JSON that looks like it."""
    kind = media_type(part.content_type)
    if not part.body:
        raise BadSample(f"the part {part.name[:80]!r} of the form is empty", kind="empty-body")
    if kind.startswith("multipart/"):
        raise BadSample("a form within a form is not supported", status=415, kind="unsupported-media-type")
    if kind or part.filename is not None:
        return _by_type(part.body, part.content_type, most)
    if part.body.lstrip()[:1] in (b"[", b"{"):
        return parse_json(part.body)
    return parse_text(part.body, "") if not is_image(part.body) else part.body


def _by_first_bytes(body: bytes, kind: str) -> object:
    if is_image(body):
        return body
    try:
        return parse_json(body)
    except BadSample as error:
        if error.kind == "repeated-key":
            raise
        if kind == _FORM:  # what curl -d sends by default
            raise BadSample(
                "the body is sent as a form, but is not JSON: set its content type, for example content-type: application/json",
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
        raise BadSample("this model does not take parameters", kind="bad-instances")
    if not isinstance(rows, list) or not rows:
        raise BadSample("instances must be a list of at least one sample", kind="bad-instances", expected={INSTANCES: "[...]"})
    refuse_too_many(len(rows), most)
    return rows


def refuse_too_many(count: int, most: int) -> None:
    """Refuse a request of more than `most` samples (413)."""
    if count > most:
        raise BadSample(f"{count} samples in one request; at most {most} are allowed", status=413, kind="too-many-instances")


def unwrapped(value: object) -> object:
    """`x` of `{"input_data": x}` and `{"data": x}`, the envelopes in use for bare numbers."""
    if isinstance(value, dict) and len(value) == 1:
        name, inner = next(iter(value.items()))
        if name in ("input_data", "data"):
            return inner
    return value
