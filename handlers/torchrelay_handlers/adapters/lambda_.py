"""AWS Lambda: API Gateway's proxy events (1.0 and 2.0; function URLs, load balancers) or any other JSON, answered in process.

An event that no proxy made is the sample itself. The answer is in proxy form whatever the event is:
`{"statusCode", "headers", "body", "isBase64Encoded"}`. Source of the formats:
https://docs.aws.amazon.com/apigateway/latest/developerguide/http-api-develop-integrations-lambda.html
"""

import base64
import binascii
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torchrelay_handlers.adapters.local import LocalContext
from torchrelay_handlers.adapters.torchserve import Service
from torchrelay_handlers.bodies import json_out
from torchrelay_handlers.messages import JSON
from torchrelay_handlers.problems import CONTENT_TYPE, BadSample, Refusal

# Lambda's limit on a synchronous answer, minus some room for the answer's frame: https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html
MOST_BYTES = 6 * 2**20 - 4096


class Function:
    """A Lambda function over the model in `model_dir`: `load` when the execution environment starts, then one call per event."""

    def __init__(self, model_dir: Path) -> None:
        self.model_dir = model_dir
        self.service = Service(end=_keep_running)

    def load(self) -> "Function":
        """Load the model now, in Lambda's init phase, and not within the first request."""
        if not self.service.loaded:
            self.service.initialize(LocalContext(self.model_dir))
        return self

    def __call__(self, event: Any, context: Any = None) -> dict[str, Any]:
        """Return the answer to one event."""
        self.load()
        request_id = str(getattr(context, "aws_request_id", ""))
        try:
            if not is_proxy(event):
                return self._predict(event, {"accept": JSON}, request_id)
            method = _method(event)
            if method == "GET" and _path(event).rstrip("/").endswith("/ping"):
                return proxied(200, b'{"status":"Healthy"}', JSON)
            if method != "POST":
                raise BadSample(f"{method} is not supported; send the sample with POST", status=405, kind="method-not-allowed")
            return self._predict(_body(event), _headers(event), request_id)
        except Refusal as refusal:
            return _problem(refusal)

    def _predict(self, body: Any, headers: dict[str, str], request_id: str) -> dict[str, Any]:
        local = LocalContext(self.model_dir, headers, request_id)
        (answer,) = self.service([{"body": body}], local) or [None]
        content_type = local.answer_headers.pop("content-type", "")
        if isinstance(answer, str):
            answer, content_type = answer.encode(), content_type or "text/plain; charset=utf-8"
        elif not isinstance(answer, bytes | bytearray):  # returned by a TorchServe handler; TorchServe encodes it as JSON
            try:
                answer, content_type = json_out.encode(answer), content_type or JSON
            except TypeError as error:
                raise Refusal(500, "bad-answer", f"the handler returned a value that has no JSON form: {error}") from error
        return proxied(local.status, bytes(answer), content_type or JSON, local.answer_headers)


def is_proxy(event: Any) -> bool:
    """Whether a gateway, function URL or load balancer made the event from an HTTP request."""
    return (
        isinstance(event, Mapping)
        and isinstance(event.get("requestContext"), Mapping)
        and ("httpMethod" in event or "rawPath" in event)
    )


def proxied(status: int, body: bytes, content_type: str, headers: Mapping[str, str] | None = None) -> dict[str, Any]:
    """An answer in proxy form; bytes that are not text are sent as base64."""
    kind = content_type.partition(";")[0].strip().lower()
    text: str | None = None
    if kind.startswith("text/") or kind in (JSON, CONTENT_TYPE) or kind.endswith("+json"):
        try:
            text = body.decode()
        except UnicodeDecodeError:
            text = None
    content = text if text is not None else base64.b64encode(body).decode()
    if len(content.encode()) > MOST_BYTES:
        return _problem(Refusal(500, "answer-too-large", f"the answer has {len(body)} bytes, more than Lambda can return"))
    return {
        "statusCode": status,
        "headers": {"content-type": content_type, **(headers or {})},
        "body": content,
        "isBase64Encoded": text is None,
    }


def _problem(refusal: Refusal) -> dict[str, Any]:
    return proxied(refusal.status, json_out.encode(refusal.document()), CONTENT_TYPE)


def _method(event: Mapping[str, Any]) -> str:
    return str(event.get("httpMethod") or _mapping(event["requestContext"].get("http")).get("method") or "POST").upper()


def _path(event: Mapping[str, Any]) -> str:
    return str(event.get("rawPath") or event.get("path") or "/")


def _headers(event: Mapping[str, Any]) -> dict[str, str]:
    """The headers by lower-case name; of a repeated header, the last value."""
    several, single = _mapping(event.get("multiValueHeaders")), _mapping(event.get("headers"))
    headers = {str(name).lower(): str(values[-1]) for name, values in several.items() if isinstance(values, list) and values}
    return headers | {str(name).lower(): str(value) for name, value in single.items() if value is not None}


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _body(event: Mapping[str, Any]) -> bytes:
    body = event.get("body")
    if body is None or body == "":
        raise BadSample("the body is empty", kind="empty-body")
    if not isinstance(body, str):
        raise BadSample("the event's body is not text", kind="bad-event")
    if not event.get("isBase64Encoded"):
        return body.encode("utf-8", "surrogatepass")
    try:
        return base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError):
        raise BadSample("the event declares its body as base64, but it is not valid base64", kind="bad-base64") from None


def _keep_running() -> None:
    """Do nothing: only a worker that lost its GPU has to end, and Lambda has no GPU."""
