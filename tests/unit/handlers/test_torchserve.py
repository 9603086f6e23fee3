"""Under TorchServe, with a fake context: one answer per request, each with its own status and content type."""

import io
import json
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from tests.unit.handlers.support import JSON, Double, FakeContext, as_torchserve, differences
from torchrelay_handlers import handler_factory
from torchrelay_handlers.adapters.client_headers import lowered
from torchrelay_handlers.adapters.native import Native
from torchrelay_handlers.adapters.torchserve import Service, request_of
from torchrelay_handlers.resolve import TorchServeEntry

HANDLERS = Path(__file__).parents[3] / "handlers" / "torchrelay_handlers"

NAIVE = """
import torch

class ModelHandler:
    def initialize(self, context):
        self.factor = torch.load(context.system_properties["model_dir"] + "/model.pt", weights_only=True)["factor"]

    def handle(self, data, context):
        body = data[0].get("body")
        assert context is None or context.get_request_header(0, "x-row") == body.get("row")
        return (torch.tensor([body.get("input_data")]) * self.factor).tolist()
"""
FACTORY = """
from torchrelay_handlers import handler_factory
from tests.unit.handlers.support import Poisoned
handler = handler_factory(Poisoned)
"""


@pytest.fixture
def model_dir(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """An unpacked archive with one handler file, named for the test as Python keeps modules by name."""
    torch.save(Double().state_dict(), tmp_path / "model.pt")
    name = "handler_" + request.node.name.partition("[")[0]
    text = NAIVE if "native" in name else FACTORY
    (tmp_path / f"{name}.py").write_text(text)
    (tmp_path / "torchrelay.json").write_text(
        json.dumps({"name": "m", "handler": f"{name}.py", "weights": "model.pt", "batch_size": 4})
    )
    return tmp_path


def serve(service: Service, model_dir: Path, bodies: list[bytes], content_type: str = JSON) -> tuple[list[Any], FakeContext]:
    context = FakeContext(str(model_dir), [content_type] * len(bodies))
    for row, processor in enumerate(context.request_processor):
        processor.headers["x-row"] = row if b'"row"' in bodies[row] else None
    answers = service(as_torchserve(bodies, content_type), context)
    assert answers is not None
    return answers, context


def loaded(model_dir: Path) -> Service:
    service = Service()
    assert service(None, FakeContext(str(model_dir))) is None
    return service


def test_one_request(model_dir: Path) -> None:
    answers, context = serve(loaded(model_dir), model_dir, [b"[1, 2, 3]"])
    assert (answers, context.statuses, context.content_types) == ([b"[2.0,4.0,6.0]"], [200], [JSON])


def test_four_requests_with_poison(model_dir: Path) -> None:
    answers, context = serve(loaded(model_dir), model_dir, [b"[1, 2, 3]", b"[13, 0, 0]", b"{", b"[4, 5, 6]"])
    assert context.statuses == [200, 500, 400, 200]
    assert [context.request_processor[row].status[1] for row in (1, 2)] == ["Internal Server Error", "Bad Request"]
    assert context.content_types == [JSON, "application/problem+json", "application/problem+json", JSON]
    assert (answers[0], answers[3]) == (b"[2.0,4.0,6.0]", b"[8.0,10.0,12.0]")
    assert json.loads(answers[2])["status"] == 400


def test_it_loads_at_the_first_batch_if_not_before(model_dir: Path) -> None:
    assert serve(Service(), model_dir, [b"[1, 2, 3]"])[0] == [b"[2.0,4.0,6.0]"]


def test_the_file_that_archives_carry_is_an_entry_point(model_dir: Path) -> None:
    entry = runpy.run_path(str(HANDLERS / "service_entry.py"))["handle"]
    entry(None, FakeContext(str(model_dir)))
    assert entry([{"body": [1, 2, 3]}], FakeContext(str(model_dir), [JSON])) == [b"[2.0,4.0,6.0]"]


def test_a_handler_object_is_an_entry_point_of_stock_torchserve(tmp_path: Path) -> None:
    torch.save(Double().state_dict(), tmp_path / "w.pt")
    handler = handler_factory(Double)
    handler(None, FakeContext(str(tmp_path), manifest={"model": {"serializedFile": "w.pt"}}))
    assert handler([{"body": [1, 2, 3]}], FakeContext(str(tmp_path), [JSON])) == [b"[2.0,4.0,6.0]"]


def test_a_lost_device_ends_the_worker_after_its_answers(tmp_path: Path) -> None:
    ended: list[bool] = []
    handler = handler_factory(Broken).load(None)
    service = Service(handler, end=lambda: ended.append(True))
    service.served = handler
    _, context = serve(service, tmp_path, [b"[1]", b"[2]"])
    assert (context.statuses, ended) == ([503, 503], [True])


class Broken(Double):
    def forward(self, _: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("CUDA error: device-side assert triggered")


@pytest.mark.parametrize(
    ("row", "headers", "body", "content_type"),
    [
        ({"body": bytearray(b"x")}, {"body": {"content-type": "image/png"}}, b"x", "image/png"),
        ({"body": bytearray(b"x")}, {"body": {"content-type": ""}, "CONTENT-TYPE": "image/gif"}, b"x", "image/gif"),
        (
            {"data": bytearray(b"x")},
            {"data": {"content-type": "image/png"}, "Content-Type": "multipart/form-data"},
            b"x",
            "image/png",
        ),
        ({"picture": bytearray(b"x")}, {"picture": {"content-type": "image/png"}}, b"x", "image/png"),
        ({"body": [1]}, {"body": {"content-type": JSON}}, [1], JSON),
        ({"body": "text"}, {"body": {"content-type": "text/plain"}}, "text", "text/plain"),
        ({"a": bytearray(b"x"), "b": "y"}, {"Content-Type": "multipart/form-data"}, {"a": b"x", "b": "y"}, "multipart/form-data"),
        ({"body": [1], "query": bytearray(b"1")}, {"body": {"content-type": JSON}}, [1], JSON),
        ({}, {}, b"", ""),
    ],
)
def test_torchserves_dicts_are_understood(row: dict[str, Any], headers: dict[str, Any], body: object, content_type: str) -> None:
    context = FakeContext("", [""])
    context.request_processor[0].headers = headers
    request = request_of(row, 0, lowered(context, 0), context)
    assert (request.body, request.content_type, request.parsed) == (body, content_type, not isinstance(body, bytes))
    assert request.id == "id-0"


def test_a_picture_in_a_form_is_a_picture() -> None:
    buffer = io.BytesIO()
    Image.new("L", (2, 2), 9).save(buffer, "PNG")
    handler = handler_factory(Double, lambda image: torch.tensor(image.getpixel((0, 0)))).load(None)
    service = Service(handler)
    service.served = handler
    context = FakeContext("", [""])
    context.request_processor[0].headers = {
        "data": {"content-type": "image/png"},
        "Content-Type": "multipart/form-data; boundary=x",
    }
    assert service([{"data": bytearray(buffer.getvalue())}], context) == [b"[18.0,18.0,18.0]"]


def test_native_handler_alone(model_dir: Path) -> None:
    answers, context = serve(loaded(model_dir), model_dir, [b'{"input_data": [1, 2, 3]}'])
    assert (answers, context.statuses) == ([[2.0, 4.0, 6.0]], [200])


def test_native_handler_that_looks_at_the_first_request_only_answers_all(model_dir: Path) -> None:
    service = loaded(model_dir)
    bodies = [b'{"input_data": [%d, 0, 1]}' % n for n in range(4)]
    for _ in range(2):
        answers, _ = serve(service, model_dir, bodies)
        assert answers == [[2.0 * n, 0.0, 2.0] for n in range(4)]


def test_native_handler_sees_the_headers_of_the_request_that_it_is_given(model_dir: Path) -> None:
    _, context = serve(loaded(model_dir), model_dir, [b'{"input_data": [1, 0, 0], "row": %d}' % row for row in range(3)])
    assert context.statuses == [200, 200, 200]


def test_native_handler_fails_for_the_bad_request_alone(model_dir: Path) -> None:
    service = loaded(model_dir)
    answers, context = serve(service, model_dir, [b'{"input_data": [1, 0, 0]}', b'{"other": 1}', b'{"input_data": [2, 0, 0]}'])
    assert context.statuses == [200, 500, 200]
    assert answers[0] == [2.0, 0.0, 0.0]
    assert answers[2] == [4.0, 0.0, 0.0]


def test_native_handler_gets_json_parsed_even_when_torchserve_leaves_that_to_us(model_dir: Path) -> None:
    context = FakeContext(str(model_dir), [JSON])
    assert loaded(model_dir)([{"body": bytearray(b'{"input_data": [1, 0, 0]}')}], context) == [[2.0, 0.0, 0.0]]


def test_native_handler_gets_text_as_text_and_broken_bodies_as_they_are() -> None:
    seen: list[Any] = []
    native = Native(TorchServeEntry(lambda data, _: seen.append(data[0]["body"]) or [1], print))  # type: ignore[func-returns-value] # append returns None, so the list follows
    for body, content_type in ((b"text", "text/plain"), (b"{", JSON), (b"\xff", "text/plain"), (b"x", "image/png")):
        native.answer([{"body": bytearray(body)}], FakeContext("", [content_type]))
    assert seen == ["text", b"{", b"\xff", b"x"]


def test_native_handlers_unprotected_would_fail_the_test_of_neighbours(model_dir: Path) -> None:
    service = loaded(model_dir)
    bodies = [b'{"input_data": [%d, 0, 1]}' % n for n in range(5)]

    def protected(some: list[bytes]) -> list[tuple[int, bytes]]:
        answers, context = serve(service, model_dir, some)
        return [(status, json.dumps(answer).encode()) for status, answer in zip(context.statuses, answers, strict=True)]

    def unprotected(some: list[bytes]) -> list[tuple[int, bytes]]:
        handle = service.served.entry.handle  # type: ignore[union-attr] # its kind is known here
        return [(200, json.dumps(answer).encode()) for answer in handle(as_torchserve(some, JSON), None)]

    assert differences(protected, bodies) == []
    assert "2 requests, 1 answers" in differences(unprotected, bodies)


def test_answers_do_not_depend_on_neighbours(model_dir: Path) -> None:
    service = loaded(model_dir)
    bodies = [b"[%d, 1, 2]" % n for n in range(24)] + [b"{", b"[", b'"x"', b"null", b"[NaN, 1, 2]", b"[" * 5000]

    def together(some: list[bytes]) -> list[tuple[int, bytes]]:
        answers, context = serve(service, model_dir, some)
        return list(zip(context.statuses, answers, strict=True))

    assert differences(together, bodies) == []
    assert [status for status, _ in together(bodies)] == [500 if n == 13 else 200 for n in range(24)] + [400] * 6


def test_an_archive_without_its_description_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="torchrelay archive"):
        Service()(None, FakeContext(str(tmp_path)))


def test_torchserve_itself_is_not_needed() -> None:
    assert "ts" not in sys.modules
