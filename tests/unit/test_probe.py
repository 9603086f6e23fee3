"""The JSON exchanged with torchrelay_runtime.probe, in both directions."""

import base64
import json

import pytest

from torchrelay.verification.prober import ProbeAnswer, ProbeRequest, decode_batch, encode_batch

REQUESTS = [
    ProbeRequest("a", "POST", "/predictions/digits", "image/png", b"\x89PNG\x00"),
    ProbeRequest("b", "GET", "/ping", "", b""),
]


def row(identity: str, **changes: object) -> dict[str, object]:
    return {
        "id": identity,
        "status": 200,
        "content_type": "application/json",
        "body": base64.b64encode(b"{}").decode(),
        "latency_ms": 2.5,
        "error": None,
        **changes,
    }


def test_a_batch_is_one_json_object_with_base64_bodies() -> None:
    batch = json.loads(encode_batch(REQUESTS, concurrency=4, timeout_s=9.5))
    assert batch["concurrency"] == 4
    assert batch["timeout_s"] == 9.5
    assert batch["requests"][0] == {
        "id": "a",
        "method": "POST",
        "path": "/predictions/digits",
        "content_type": "image/png",
        "body": "iVBORwA=",
    }


def test_answers_are_read_in_order() -> None:
    unanswered = row("b", status=0, body="", content_type=None, latency_ms=None, error="refused")
    output = json.dumps([row("a"), unanswered]).encode()
    assert decode_batch(output, REQUESTS) == [
        ProbeAnswer("a", 200, "application/json", b"{}", 2.5, None),
        ProbeAnswer("b", 0, "", b"", 0.0, "refused"),
    ]


@pytest.mark.parametrize(
    "rows",
    [
        [row("a")],
        [row("b"), row("a")],
        [row("a"), "b"],
        [row("a"), row("b", body="not base64!")],
        [row("a"), {"id": "b"}],
        [row("a"), row("b", latency_ms="soon")],
        {"error": "x"},
        "",
    ],
)
def test_anything_but_one_answer_per_request_is_refused(rows: object) -> None:
    with pytest.raises(ValueError, match=r"did not answer|printed"):
        decode_batch(json.dumps(rows).encode(), REQUESTS)


def test_output_that_is_not_json_is_refused() -> None:
    with pytest.raises(ValueError, match="no JSON"):
        decode_batch(b"Traceback", REQUESTS)
