"""Which bodies a handler takes, by the request's headers alone."""

from collections.abc import Sequence

from torchrelay_handlers.bodies.decode import media_type
from torchrelay_handlers.messages import Request
from torchrelay_handlers.problems import BadSample

ALWAYS = ("application/json", "multipart/form-data", "application/x-www-form-urlencoded", "application/octet-stream", "*/*")
"""Content types that every shipped handler reads: by their own form, or by the body's first bytes."""


def refuse_unsupported(request: Request, takes: Sequence[str] | None) -> None:
    """Refuse a body that is compressed, or of a content type that begins with none of `takes`; None takes every type.

    Raises:
        BadSample: with status 415.
    """
    encoding = request.content_encoding.strip().lower()
    if encoding not in ("", "identity"):
        raise BadSample(
            f"the body has the content encoding {encoding[:40]}: send it uncompressed",
            expected={"content-encoding": ["identity"]},
            status=415,
            kind="unsupported-encoding",
        )
    kind = media_type(request.content_type)
    if takes is None or not kind or kind in ALWAYS or kind.endswith("+json") or kind.startswith(tuple(takes)):
        return
    raise BadSample(
        f"the content type {kind[:80]} is not supported",
        expected={"content-type": ["application/json", *(f"{one}*" if one.endswith("/") else one for one in takes)]},
        status=415,
        kind="unsupported-media-type",
    )
