"""A container matches its own /openapi.json: schemathesis generates requests from it and checks the answers against it.

Whatever is sent, there is no 5xx, and no status code, content type or JSON that the document does not contain. Requests that are
valid by the document are answered, where a schema can say that (for a text of known words or the bytes of a picture it cannot).
"""

from __future__ import annotations

import copy
import json
from typing import Any

import numpy as np
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import CheckFunction, not_a_server_error
from schemathesis.core.failures import FailureGroup
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.container.corpus.arrays import npy
from tests.container.corpus.pictures import picture
from tests.container.corpus.served import KindServer
from tests.container.harness import JSON, PREDICT

CHECKS: list[CheckFunction] = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    response_headers_conformance,
]
MANY, FEW = 60, 4  # examples for the model's own route, and for every other one
_PICTURES = st.sampled_from([picture(kind) for kind in ("PNG", "JPEG", "WEBP", "GIF")]) | st.binary(max_size=200)
for _kind in ("png", "jpeg", "webp"):
    schemathesis.openapi.media_type(f"image/{_kind}", _PICTURES)
schemathesis.openapi.media_type("application/octet-stream", _PICTURES)
_ARRAYS = st.sampled_from([npy(np.ones(shape, "<f4")) for shape in ((4,), (3, 4), (2,))]) | st.binary(max_size=200)
schemathesis.openapi.media_type("application/x-npy", _ARRAYS)
_ROWS = st.lists(st.lists(st.floats(width=32), min_size=3, max_size=5), min_size=1, max_size=4)
schemathesis.openapi.media_type("text/csv", _ROWS.map(lambda rows: "\n".join(",".join(map(str, row)) for row in rows).encode()))


def failures_of(document: dict[str, Any], base_url: str, examples: dict[str, int]) -> list[str]:
    """Send requests generated from the document, at most `examples` to each path; return what is wrong with the answers."""
    failures: list[str] = []
    schema = schemathesis.openapi.from_dict(document)
    with requests.Session() as session:
        session.trust_env = False  # this machine's proxy does not reach containers
        for result in schema.get_all_operations():
            assert isinstance(result, Ok), result
            operation = result.ok()
            modes = [GenerationMode.POSITIVE]
            modes += [GenerationMode.NEGATIVE] if operation.path == PREDICT and operation.method == "post" else []
            for mode in modes:
                try:
                    send_examples(
                        operation, mode, base_url, session, examples.get(operation.path, FEW) if operation.method == "post" else FEW
                    )
                except (FailureGroup, AssertionError) as error:
                    several = error.exceptions if isinstance(error, FailureGroup) else [error]
                    failures += [f"{operation.label}: {one}"[:1500] for one in several]
    return failures


def send_examples(operation: Any, mode: GenerationMode, base_url: str, session: requests.Session, examples: int) -> None:
    """Send that many examples of one operation. Raises what a check raises."""
    # A schema can describe numbers completely; pictures and texts it cannot.
    complete = mode is GenerationMode.POSITIVE and "text/csv" in operation.get_request_payload_content_types()

    # schemathesis itself generates slow and filtered data; shrinking would repeat requests for no better message.
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
    )
    @given(operation.as_strategy(generation_mode=mode))
    def sent(case: Any) -> None:
        response = case.call(base_url=base_url, session=session, timeout=30)
        case.validate_response(response, checks=CHECKS)
        if complete and case.media_type == JSON:
            assert response.status_code == 200, f"{case.body!r} is refused: {response.text}"

    sent()


def test_a_container_answers_as_its_description_says(kind_server: KindServer) -> None:
    on = kind_server.container
    answer = on.send("GET", "/openapi.json")
    assert (answer.status, answer.headers["content-type"], answer.body) == (200, JSON, kind_server.document)
    assert on.send("POST", "/openapi.json", b"{}").status == 405
    assert failures_of(json.loads(answer.body), f"http://{on.address}:8080", {PREDICT: MANY}) == []


@pytest.mark.parametrize("kind_server", ["tensor"], indirect=True)
def test_an_incomplete_description_fails_the_same_checks(kind_server: KindServer) -> None:
    base_url, whole = f"http://{kind_server.container.address}:8080", json.loads(kind_server.document)
    whole["paths"] = {PREDICT: {"post": whole["paths"][PREDICT]["post"]}}
    less, other = copy.deepcopy(whole), copy.deepcopy(whole)
    del less["paths"][PREDICT]["post"]["responses"]["400"]
    other["components"]["schemas"]["Answer"] = {"type": "string"}
    assert "Undocumented status code" in "".join(failures_of(less, base_url, {PREDICT: MANY}))
    assert "Response violates schema" in "".join(failures_of(other, base_url, {PREDICT: MANY}))
    whole["components"]["schemas"]["Sample"] = {"type": "array", "items": {"type": "number"}}
    assert "is refused" in "".join(failures_of(whole, base_url, {PREDICT: MANY}))
