"""Forms pass the server's own parser under other names, and reach the handlers as the client sent them."""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.unit.handlers.support import FakeContext
from torchrelay_handlers.adapters.native import Native
from torchrelay_handlers.adapters.renamed_forms import own_type, with_fields
from torchrelay_handlers.adapters.torchserve import request_of
from torchrelay_handlers.problems import BadSample
from torchrelay_handlers.resolve import TorchServeEntry
from torchrelay_runtime.nginx import Front, content_type, render
from torchrelay_runtime.torchserve.config import FORMS, SERVICE, renamed

FRONT = Front(Path("/s"), "0.0.0.0", 8080, "127.0.0.1:8085", routes=(("/invocations", "/x"),), renamed=tuple(FORMS.items()))
FORM = b'--b\r\nContent-Disposition: form-data; name="a"\r\nContent-Type: text/csv\r\n\r\n1,2\r\n--b--'
SENT = "application/vnd.torchrelay.form-data; boundary=b"


def sent(kind: str) -> str:
    """What nginx would make of a content type, by the rows of its map."""
    for pattern, name in re.findall(r'"~\*(\S.*?)" "(\S+?)\$rest\d"', content_type(FRONT)):
        if match := re.fullmatch(pattern.replace("(?<", "(?P<"), kind, re.I):
            return str(name) + next(iter(match.groupdict().values()))
    return kind


@pytest.mark.parametrize(
    "kind",
    [
        "multipart/form-data",
        "Multipart/Form-Data; boundary=b",
        'multipart/form-data ;boundary="a b"',
        "application/x-www-form-urlencoded; charset=utf-8",
    ],
)
def test_a_forms_type_is_another_for_the_server_and_its_own_for_the_handler(kind: str) -> None:
    assert sent(kind).startswith("application/vnd.torchrelay.form-")
    assert re.sub(r"\s", "", own_type(sent(kind)).lower()) == re.sub(r"\s", "", kind.lower())


@pytest.mark.parametrize(
    "kind", ["application/json", "multipart/mixed; boundary=b", "multipart/form-datax", "", "text/plain; x=multipart/form-data"]
)
def test_other_types_stay(kind: str) -> None:
    assert sent(kind) == own_type(kind) == kind


def test_forms_are_renamed_when_every_handler_knows_the_names_and_only_then() -> None:
    assert renamed([{"handler": SERVICE}, {"handler": SERVICE}]) == FORMS
    assert renamed([{"handler": SERVICE}, {"handler": "their.py"}]) == {}
    assert "proxy_set_header Content-Type $sent_type;" in render(FRONT)
    assert "sent_type" not in render(replace(FRONT, renamed=()))


def context_of(kind: str) -> FakeContext:
    context = FakeContext("", [""])
    context.request_processor[0].headers = {"Content-Type": kind, "body": {"content-type": kind.partition(";")[0]}}
    return context


def test_a_request_has_the_clients_content_type_with_its_parameters() -> None:
    for sent_type, wanted in ((SENT, "multipart/form-data; boundary=b"), ("text/csv; charset=utf-16", "text/csv; charset=utf-16")):
        assert request_of({"body": bytearray(FORM)}, 0, context_of(sent_type)).content_type == wanted


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
    (answer,) = native.answer([{"body": bytearray(b"a=1&b=%20x")}], context_of("application/vnd.torchrelay.form-urlencoded"))
    assert json.loads(answer)["b"] == "bytearray(b' x')"


def test_a_broken_form_is_refused_and_its_neighbour_answered() -> None:
    native = Native(TorchServeEntry(Fields().handle, print))
    context = FakeContext("", ["", ""])
    for processor in context.request_processor:
        processor.headers = {"Content-Type": SENT}
    broken, whole = native.answer([{"body": bytearray(FORM[:-3])}, {"body": bytearray(FORM)}], context)
    assert (broken.status, broken.json()["type"]) == (400, "urn:torchrelay:problem:bad-multipart")
    assert json.loads(whole)["a"] == "1,2"
    with pytest.raises(BadSample, match="not a form"):
        with_fields({"body": b"\xff=1"}, {"content-type": "application/vnd.torchrelay.form-urlencoded"})
