"""Forms that the front hid from TorchServe's own parser under other content types (torchrelay_runtime/torchserve/config.py)."""

from typing import Any
from urllib.parse import parse_qsl

from torchrelay_handlers.bodies.forms import MOST_PARTS, parse_multipart
from torchrelay_handlers.problems import BadSample

_PREFIX = "application/vnd.torchrelay.form-"
_DATA, _URLENCODED = "multipart/form-data", "application/x-www-form-urlencoded"


def own_type(content_type: str) -> str:
    """The content type that the client sent."""
    if not content_type.startswith(_PREFIX):
        return content_type
    kind, _, parameters = content_type.removeprefix(_PREFIX).partition(";")
    own = _DATA if kind.strip() == "data" else _URLENCODED
    return f"{own};{parameters}" if parameters else own


def with_fields(row: dict[str, Any], headers: dict[str, Any]) -> dict[str, Any]:
    """The fields of a form by name, as TorchServe's own parser hands them over; any other request as it is.

    `headers` get the client's content type back, and the content type of each part under its name.

    Raises:
        BadSample: the body is not a form.
    """
    name = next((name for name in headers if name.lower() == "content-type"), "")
    content_type = headers.get(name)
    body = row.get("body")
    if not isinstance(content_type, str) or not content_type.startswith(_PREFIX) or not isinstance(body, bytes | bytearray):
        return row
    headers[name] = own_type(content_type)
    headers.pop("body", None)
    rest = {key: value for key, value in row.items() if key != "body"}
    if headers[name].startswith(_URLENCODED):
        return rest | _pairs(bytes(body))
    parts = parse_multipart(bytes(body), headers[name])
    headers.update({part.name: {"content-type": part.content_type} for part in parts if part.content_type})
    return rest | {part.name: bytearray(part.body) for part in parts}


def _pairs(body: bytes) -> dict[str, Any]:
    try:
        pairs = parse_qsl(body.decode(), keep_blank_values=True, errors="strict", max_num_fields=MOST_PARTS)
    except ValueError as error:
        raise BadSample(f"the body is not a form: {error}", kind="bad-form") from None
    return {name: bytearray(value.encode()) for name, value in pairs}
