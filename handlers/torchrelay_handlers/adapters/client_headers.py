"""What the front hides from TorchServe and says in headers: the client's content type, and whether the client is still there.

TorchServe parses forms itself, answers 500 to broken ones and has known holes there. So the front sends every body under one
content type that it does not parse, and the client's own in another header (torchrelay_runtime/nginx.py).
"""

import os
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

from torchrelay_handlers.bodies.forms import MOST_PARTS, parse_multipart
from torchrelay_handlers.problems import BadSample, Refusal

TYPE, KEY, ID = "x-torchrelay-content-type", "x-torchrelay-request", "x-request-id"
CANCELLED = "TORCHRELAY_CANCELLED"
"""Environment variable: the folder where the front leaves a file, named by its key, for a request that nobody waits for."""
_DATA, _URLENCODED = "multipart/form-data", "application/x-www-form-urlencoded"
_HEX = frozenset("0123456789abcdef")


def lowered(context: Any, index: int) -> dict[str, Any]:
    """The headers of request `index`, with names in lower case."""
    return {name.lower(): value for name, value in context.get_all_request_header(index).items()}


def own_type(headers: Mapping[str, Any]) -> str:
    """The content type that the client sent. `headers`: with names in lower case."""
    sent = headers.get(TYPE)
    if isinstance(sent, str) and sent.startswith("="):  # the sign says that the front wrote it; nothing may follow
        return sent[1:]
    plain = headers.get("content-type")
    return plain if isinstance(plain, str) else ""


def request_id(headers: Mapping[str, Any], default: str | None) -> str:
    """The id that the front gave the request and returns to the client; `default` without a front."""
    sent = headers.get(ID)
    return sent if KEY in headers and isinstance(sent, str) and sent else default or ""


def is_cancelled(headers: Mapping[str, Any]) -> bool:
    """Whether the client has left; asked once for a request, because the front's file is removed."""
    folder, key = os.environ.get(CANCELLED), headers.get(KEY)
    if not folder or not isinstance(key, str) or not key or not _HEX.issuperset(key):
        return False
    try:
        os.unlink(os.path.join(folder, key))  # noqa: PTH108, PTH118 - pathlib takes three times as long, and this is for every request
    except OSError:
        return False
    return True


def cancelled() -> Refusal:
    """The answer to a request that nobody waits for."""
    return Refusal(408, "cancelled", "the client left before the request was executed")


def with_fields(row: dict[str, Any], headers: dict[str, Any]) -> dict[str, Any]:
    """The fields of a form by name, as TorchServe's own parser hands them over; any other request as it is.

    `headers` get the client's content type back, and the content type of each part under its name.

    Raises:
        BadSample: the body is not a form.
    """
    named = {name.lower(): name for name in headers}
    if TYPE not in named:
        return row
    content_type = own_type({TYPE: headers.pop(named[TYPE])})
    name = named.get("content-type", "content-type")
    headers.pop(name, None)
    if content_type:
        headers[name] = content_type
    headers.pop("body", None)
    body = row.get("body")
    kind = content_type.partition(";")[0].strip().lower()
    if kind not in (_DATA, _URLENCODED) or not isinstance(body, bytes | bytearray):
        if kind:
            headers["body"] = {"content-type": kind}
        return row
    rest = {key: value for key, value in row.items() if key != "body"}
    if kind == _URLENCODED:
        return rest | _pairs(bytes(body))
    parts = parse_multipart(bytes(body), content_type)
    headers.update({part.name: {"content-type": part.content_type} for part in parts if part.content_type})
    return rest | {part.name: bytearray(part.body) for part in parts}


def _pairs(body: bytes) -> dict[str, Any]:
    try:
        pairs = parse_qsl(body.decode(), keep_blank_values=True, errors="strict", max_num_fields=MOST_PARTS)
    except ValueError as error:
        raise BadSample(f"the body is not a form: {error}", kind="bad-form") from None
    return {name: bytearray(value.encode()) for name, value in pairs}
