"""The OpenAPI document that an image serves at /openapi.json, made at build time: same model and samples, same bytes.

Format: https://spec.openapis.org/oas/v3.1.0
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torchrelay.image.openapi_bodies import JSON, Bodies, bodies_of
from torchrelay.model.handlers import class_names, complete_options
from torchrelay.model.model import Model, predict_path
from torchrelay.model.samples import Sample

PROBLEM = "application/problem+json"
LONGEST_EXAMPLE = 4096  # bytes of a body
MOST_EXAMPLES = 5

# The status codes that any request to the model may get, and why.
_REFUSALS = {
    400: "The body is not valid input of this model.",
    404: "The path does not exist.",
    405: "The method is not allowed here.",
    408: "The request took too long to arrive.",
    413: "The body, the picture, the text or the number of samples is larger than allowed.",
    414: "The address is too long.",
    415: "The content type, or its charset, is not supported.",
    500: "The model failed on this sample, or the server on this request.",
    503: "The server is starting, stopping or busy; try again after the time in Retry-After.",
    504: "The model did not answer in time.",
    507: "The model's process ran out of memory and is being restarted.",
}
_BY_TORCHSERVE = (500, 503, 507)
_MORE_REFUSALS = {
    406: "The answer is not available in the form that Accept asks for.",
    422: "The answer to this sample contains NaN or Infinity, which this model is configured to refuse.",
}
_SCHEMAS: dict[str, Any] = {
    "Problem": {
        "type": "object",
        "description": "Why a request, or one of its samples, was not answered (RFC 9457).",
        "required": ["type", "title", "status", "detail"],
        "properties": {
            "type": {"type": "string", "pattern": "^urn:torchrelay:problem:"},
            "title": {"type": "string"},
            "status": {"type": "integer", "minimum": 400, "maximum": 599},
            "detail": {"type": "string", "minLength": 1},
            "expected": {"description": "What would have been taken: shape and dtype, formats, limits."},
            "got": {"description": "What was sent instead."},
            "instance": {"type": "integer", "minimum": 0, "description": "Which of several samples is at fault, counted from 0."},
        },
    },
    "ServerError": {
        "type": "object",
        "description": "TorchServe's own message: its queue is full, or the model's process died.",
        "required": ["code", "type", "message"],
        "properties": {"code": {"type": "integer"}, "type": {"type": "string"}, "message": {"type": "string"}},
    },
    "Health": {
        "type": "object",
        "required": ["status"],
        "properties": {"status": {"type": "string"}},
    },
    "NotReady": {
        "type": "object",
        "required": ["ready", "reason"],
        "properties": {"ready": {"const": False}, "reason": {"type": "string"}, "failed": {"type": "boolean"}},
    },
}


def rendered(model_dir: Path, model: Model, version: str, samples: Sequence[Sample]) -> bytes:
    """Return openapi.json, as UTF-8 text."""
    openapi = document(model, version, samples, class_names(model_dir, model.handler, model.handler_args))
    return json.dumps(openapi, separators=(",", ":"), sort_keys=True).encode() + b"\n"


def document(model: Model, version: str, samples: Sequence[Sample], classes: list[str] | None = None) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document of the model's endpoint; `classes` are the names of its classes, if there are any.

    Only samples that are marked as public become examples: authors take samples from real requests. The document mentions that the
    server has other versions, but not which requests they accept: that is not known here.
    """
    default = model.default_version or version
    samples = [one for one in samples if one.public and (one.version or default) == version]
    bodies = bodies_of(model.handler, complete_options(model.handler, model.handler_args), classes)
    predict = predict_path(model.name)
    paths: dict[str, Any] = {}
    routes = ((predict, "predict"), (f"{predict}/{version}", "predictVersion"), ("/invocations", "invoke"))
    for path, name in routes if default == version else routes[1:2]:
        paths[path] = {"post": _predict(name, bodies), "put": _predict(f"{name}ByPut", bodies)}
    paths["/ping"] = {"get": _health()}
    paths["/openapi.json"] = {"get": _describe()}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": model.name,
            "version": version,
            "description": f"A PyTorch model behind the handler {model.handler}. "
            f"Bodies may have {model.max_body_mb} MiB. An answer takes at most {2 * model.timeouts.response_s + 5} s."
            + (f" Other versions answer at {predict}/<version>; without one, {default}." if model.versions else ""),
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "requestBodies": {"Request": {"required": True, "content": _with_requests(bodies.takes, samples)}},
            "responses": _responses(bodies, samples),
            "schemas": {**_SCHEMAS, **bodies.schemas},
        },
    }


def _ref(name: str) -> dict[str, Any]:
    return {"schema": {"$ref": f"#/components/schemas/{name}"}}


def _predict(operation: str, bodies: Bodies) -> dict[str, Any]:
    responses = {status: {"$ref": f"#/components/responses/{name}"} for status, name in _names(bodies).items()}
    if not bodies.known:
        responses["default"] = {"description": "Whatever else this model's own handler answers."}
    body = {"$ref": "#/components/requestBodies/Request"}
    return {"operationId": operation, "summary": "Ask the model.", "requestBody": body, "responses": responses}


def _names(bodies: Bodies) -> dict[str, str]:
    """Return the name of each response below `components`, by its status."""
    return {"200": "Answer", **{str(status): f"Refused{status}" for status in sorted(_reasons(bodies))}}


def _reasons(bodies: Bodies) -> dict[int, str]:
    return _REFUSALS | {status: _MORE_REFUSALS[status] for status in bodies.refusals}


def _responses(bodies: Bodies, samples: Sequence[Sample]) -> dict[str, Any]:
    answered = {"description": "The answer, one for each sample.", "content": _with_answers(bodies.gives, samples)}
    responses: dict[str, Any] = {"Answer": answered}
    for status, reason in _reasons(bodies).items():
        content = {PROBLEM: _ref("Problem")} | ({JSON: _ref("ServerError")} if status in _BY_TORCHSERVE else {})
        responses[f"Refused{status}"] = {"description": reason, "content": content}
    responses["Refused503"]["headers"] = {"Retry-After": {"schema": {"type": "integer"}, "description": "Seconds."}}
    return responses


def _with_requests(takes: dict[str, Any], samples: Sequence[Sample]) -> dict[str, Any]:
    content = {kind: dict(media) for kind, media in takes.items()}
    for sample in samples:
        kind = sample.content_type.partition(";")[0].strip().lower()
        if sample.expect.status != 200 or kind not in content or len(sample.body) > LONGEST_EXAMPLE:
            continue
        value = _readable(sample.body, kind)
        examples = content[kind].setdefault("examples", {})
        if value is not None and len(examples) < MOST_EXAMPLES:
            examples[sample.name] = {"value": value}
    return {kind: {key: part for key, part in media.items() if part != {}} for kind, media in content.items()}


def _readable(body: bytes, kind: str) -> Any:
    """Return a body as JSON or text; None when it is neither, an image for example."""
    try:
        return json.loads(body) if kind == JSON else body.decode() if kind.startswith("text/") else None
    except ValueError:
        return None


def _with_answers(gives: dict[str, Any], samples: Sequence[Sample]) -> dict[str, Any]:
    """Add the answers that samples expect in full as examples; samples that expect only a part of an answer give none."""
    complete = [sample for sample in samples if sample.expect.kind == "json" and sample.expect.mode in ("exact", "numeric")]
    examples = {
        sample.name: {"value": sample.expect.value}
        for sample in complete
        if sample.expect.status == 200 and len(json.dumps(sample.expect.value)) <= LONGEST_EXAMPLE
    }
    if JSON not in gives or not examples:
        return gives
    return gives | {JSON: gives[JSON] | {"examples": dict(sorted(examples.items())[:MOST_EXAMPLES])}}


def _health() -> dict[str, Any]:
    return {
        "operationId": "ping",
        "summary": "Whether a request would be answered just now.",
        "responses": {
            "200": {"description": "The model answers.", "content": {JSON: _ref("Health")}},
            "405": {"description": _REFUSALS[405], "content": {PROBLEM: _ref("Problem")}},
            "503": {"description": "The model is starting, stopping or failed.", "content": {JSON: _ref("NotReady")}},
        },
    }


def _describe() -> dict[str, Any]:
    errors = {str(status): {"description": _REFUSALS[status], "content": {PROBLEM: _ref("Problem")}} for status in (405, 503)}
    return {
        "operationId": "describe",
        "summary": "This document.",
        "responses": {"200": {"description": "This document.", "content": {JSON: {"schema": {"type": "object"}}}}, **errors},
    }
