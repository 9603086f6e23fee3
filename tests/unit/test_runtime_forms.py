"""Content types reach the handlers as the client sent them, past TorchServe; a request whose client has left is not executed."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.unit.handlers.support import FakeContext
from torchrelay_handlers import handler_factory
from torchrelay_handlers.adapters import client_headers
from torchrelay_handlers.adapters.client_headers import lowered, with_fields
from torchrelay_handlers.adapters.native import Native
from torchrelay_handlers.adapters.torchserve import Service, request_of
from torchrelay_handlers.problems import BadSample
from torchrelay_handlers.resolve import TorchServeEntry
from torchrelay_runtime.nginx import KEY_HEADER, NEUTRAL_TYPE, TYPE_HEADER
from torchrelay_runtime.torchserve.config import SERVICE, parse_no_body

FORM = b'--b\r\nContent-Disposition: form-data; name="a"\r\nContent-Type: text/csv\r\n\r\n1,2\r\n--b--'
SENT = "multipart/form-data; boundary=b"


def test_the_front_and_the_library_use_the_same_headers() -> None:
    assert TYPE_HEADER.lower() == client_headers.TYPE
    assert KEY_HEADER.lower() == client_headers.KEY


def test_only_our_handlers_get_bodies_that_nobody_has_parsed() -> None:
    assert parse_no_body([{"handler": SERVICE}, {"handler": SERVICE}])
    assert not parse_no_body([{"handler": SERVICE}, {"handler": "own.py"}])


def context_of(kind: str) -> FakeContext:
    context = FakeContext("", [""])
    context.request_processor[0].headers = headers_of(kind)
    return context


def headers_of(kind: str) -> dict[str, Any]:
    """What TorchServe hands over when the client sent `kind`."""
    return {"Content-Type": NEUTRAL_TYPE, TYPE_HEADER: f"={kind}", "body": {"content-type": NEUTRAL_TYPE}}


def test_a_request_has_the_clients_content_type_with_its_parameters() -> None:
    for kind in (SENT, "text/csv; charset=utf-16"):
        context = context_of(kind)
        assert request_of({"body": bytearray(FORM)}, 0, lowered(context, 0), context).content_type == kind


class Fields:
    """A plain TorchServe handler that answers the fields it is given."""

    def handle(self, data: list[dict[str, Any]], context: Any) -> list[Any]:
        headers: Mapping[str, Any] = context.get_all_request_header(0)
        return [json.dumps({name: str(value) for name, value in row.items()} | {"type": headers["Content-Type"]}) for row in data]


def test_a_plain_torchserve_handler_gets_the_fields_as_torchserve_hands_them_over() -> None:
    native = Native(TorchServeEntry(Fields().handle, print))
    context = context_of(SENT)
    (answer,) = native.answer([{"body": bytearray(FORM)}], context)
    assert json.loads(answer) == {"a": "1,2", "type": "multipart/form-data; boundary=b"}
    (answer,) = native.answer([{"body": bytearray(b"a=1&b=%20x")}], context_of("application/x-www-form-urlencoded"))
    assert json.loads(answer)["b"] == "bytearray(b' x')"


def test_a_broken_form_is_refused_and_its_neighbour_answered() -> None:
    native = Native(TorchServeEntry(Fields().handle, print))
    context = FakeContext("", ["", ""])
    for processor in context.request_processor:
        processor.headers = headers_of(SENT)
    broken, whole = native.answer([{"body": bytearray(FORM[:-3])}, {"body": bytearray(FORM)}], context)
    assert (broken.status, broken.json()["type"]) == (400, "urn:torchrelay:problem:bad-multipart")
    assert json.loads(whole)["a"] == "1,2"
    with pytest.raises(BadSample, match="not a form"):
        with_fields({"body": b"\xff=1"}, headers_of("application/x-www-form-urlencoded"))


def test_a_plain_torchserve_handler_gets_json_and_text_as_torchserve_hands_them_over() -> None:
    seen: list[Any] = []

    def handle(data: list[dict[str, Any]], context: Any) -> list[Any]:
        seen.append((data[0]["body"], context.get_all_request_header(0)))
        return ["ok"]

    for kind, body, wanted in (
        ("application/json", b"[1]", [1]),
        ("text/plain; charset=utf-8", b"x", "x"),
        ("image/png", b"x", bytearray(b"x")),
        ("", b"x", bytearray(b"x")),
    ):
        Native(TorchServeEntry(handle, print)).answer([{"body": bytearray(body)}], context_of(kind))
        got, headers = seen.pop()
        assert got == wanted
        assert headers.get("Content-Type", headers.get("content-type", "")) == kind
        assert TYPE_HEADER not in headers


class Rows(torch.nn.Module):
    """Records how many samples it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: list[int] = []

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        self.counts.append(len(batch))
        return batch


def contexts(keys: Sequence[str]) -> FakeContext:
    context = FakeContext("", [""] * len(keys))
    for processor, key in zip(context.request_processor, keys, strict=True):
        processor.headers = headers_of("application/json") | {KEY_HEADER: key, "X-Request-Id": f"client-{key}"}
    return context


def test_a_request_whose_client_has_left_is_not_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(client_headers.CANCELLED, str(tmp_path))
    (tmp_path / "b0").touch()
    network = Rows()
    handler = handler_factory(lambda: network).load(None, batch_size=4)
    network.counts.clear()
    service = Service(handler)
    service.served = handler
    context = contexts(["a0", "b0", "c0"])
    rows = [{"body": bytearray(f"[{number}]".encode())} for number in (1, 2, 3)]
    answers = service(rows, context)
    assert answers is not None
    assert [json.loads(answers[0]), json.loads(answers[2])] == [[1.0], [3.0]]
    assert context.statuses == [200, 408, 200]
    assert network.counts == [2]
    assert not list(tmp_path.iterdir()), "the note is removed, so notes cannot add up"


def test_a_plain_handler_does_not_get_it_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(client_headers.CANCELLED, str(tmp_path))
    (tmp_path / "b0").touch()
    seen: list[Any] = []

    def handle(data: list[dict[str, Any]], _: Any) -> list[Any]:
        seen.extend(row["body"] for row in data)
        return ["ok"] * len(data)

    service = Service()
    service.served = Native(TorchServeEntry(handle, print))
    context = contexts(["a0", "b0"])
    service([{"body": bytearray(b"1")}, {"body": bytearray(b"2")}], context)
    assert seen == [1]
    assert context.statuses == [200, 408]


@pytest.mark.parametrize("key", ["../x", "", "x/y", "zz"])
def test_a_key_cannot_name_another_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    (tmp_path / "x").touch()
    folder = tmp_path / "cancelled"
    folder.mkdir()
    monkeypatch.setenv(client_headers.CANCELLED, str(folder))
    assert not client_headers.is_cancelled({client_headers.KEY: key})
    assert (tmp_path / "x").exists()


def test_log_lines_carry_the_id_that_the_client_gets() -> None:
    headers = headers_of("") | {KEY_HEADER: "a0", "X-Request-Id": "client-1"}
    lower = {name.lower(): value for name, value in headers.items()}
    assert client_headers.request_id(lower, "torchserve's") == "client-1"
    assert client_headers.request_id({"x-request-id": "forged"}, "torchserve's") == "torchserve's", "without a front"
