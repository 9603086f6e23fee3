"""multipart/form-data (RFC 7578): strict, in one pass over the bytes; the standard library's parser goes line by line."""

from email.message import Message
from email.parser import BytesHeaderParser
from email.policy import HTTP

from torchrelay_handlers.problems import BadSample

MOST_PARTS = 64
# Bytes of one part's header, and of all parts' headers together: the standard library takes 0.1 s for 4 KiB of semicolons, and its
# time grows with the square.
_MOST_HEADER = 1024
_MOST_HEADERS = 16_384


class Part:
    """One part of a form: `content_type` is "" when the part names none."""

    __slots__ = ("body", "content_type", "filename", "name")

    def __init__(self, name: str, body: bytes, content_type: str, filename: str | None) -> None:
        self.name = name
        self.body = body
        self.content_type = content_type
        self.filename = filename


def parse_multipart(body: bytes, content_type: str) -> list[Part]:
    """The parts in their order; a repeated name and content after the end are refused."""
    header = Message()
    header["content-type"] = content_type.replace("\r", " ").replace("\n", " ")
    boundary = header.get_boundary("")
    if not 1 <= len(boundary) <= 70 or not boundary.isascii():
        raise BadSample("the content type has no boundary of 1 to 70 characters", kind="bad-multipart")
    delimiter = b"\r\n--" + boundary.encode("ascii")
    pieces = (b"\r\n" + body).split(delimiter, MOST_PARTS + 2)
    if len(pieces) > MOST_PARTS + 2:
        raise BadSample(f"more than {MOST_PARTS} parts in one form", status=413, kind="bad-multipart")
    if len(pieces) < 2 or not pieces[-1].startswith(b"--") or pieces[-1][2:].strip():
        raise BadSample("the form does not end in its boundary: it is cut short, or the boundary is wrong", kind="bad-multipart")
    heads = [_head(piece, place) for place, piece in enumerate(pieces[1:-1])]
    if sum(len(head) for head, _ in heads) > _MOST_HEADERS:
        raise BadSample(f"the headers of the form's parts have more than {_MOST_HEADERS} bytes", status=413, kind="bad-multipart")
    parts = [_part(head, body, place) for place, (head, body) in enumerate(heads)]
    if not parts:
        raise BadSample("the form contains no part", kind="bad-multipart")
    if len({part.name for part in parts}) != len(parts):
        raise BadSample("two parts of the form have the same name", kind="repeated-key")
    return parts


def _head(piece: bytes, place: int) -> tuple[bytes, bytes]:
    """A part's header and body."""
    start = piece.lstrip(b" \t")
    head, blank, body = start[2:].partition(b"\r\n\r\n") if not start.startswith(b"\r\n\r\n") else (b"", b"\r\n", start[4:])
    if not start.startswith(b"\r\n") or not blank or len(head) > _MOST_HEADER:
        raise BadSample(f"part {place + 1} of the form has no end to its header", kind="bad-multipart")
    return head, body


def _part(head: bytes, body: bytes, place: int) -> Part:
    try:
        message = BytesHeaderParser(policy=HTTP).parsebytes(head)
        name = message.get_param("name", header="content-disposition")
        filename = message.get_filename()
        content_type = str(message.get("content-type", ""))
        encoding = str(message.get("content-transfer-encoding", "binary")).strip().lower()
    except Exception as error:  # the header parser of the standard library raises IndexError and more on nonsense
        raise BadSample(f"the header of part {place + 1} cannot be read: {error}", kind="bad-multipart") from None
    if encoding not in ("binary", "8bit", "7bit"):  # deprecated by RFC 7578 section 4.7
        raise BadSample(
            f"part {place + 1} has the transfer encoding {encoding[:40]}, which forms must not use",
            status=415,
            kind="bad-multipart",
        )
    return Part(str(name or f"part{place}"), body, content_type, filename)
