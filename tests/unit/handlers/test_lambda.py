"""Events of API Gateway, of function URLs and of nobody in particular, answered by the same handler in this process."""

import base64
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.handlers.support import JSON, Double
from torchrelay_handlers.adapters import lambda_
from torchrelay_handlers.adapters.lambda_ import Function

OWN = "import torch\nfrom torchrelay_handlers import Raw\nloads = []\n"
OWN += "def init_function():\n    loads.append(1)\n    return torch.nn.Identity()\n"
OWN += "def postprocess(output): return Raw(bytes([255, 0]), 'image/png') if output.item() == 7 else {'got': output.item()}\n"


@pytest.fixture(autouse=True)
def clean_imports() -> Iterator[None]:
    modules, path = set(sys.modules), list(sys.path)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        del sys.modules[name]


@pytest.fixture
def tensor(tmp_path: Path) -> Function:
    torch.save(Double().state_dict(), tmp_path / "model.pt")
    (tmp_path / "their_double.py").write_text("from tests.unit.handlers.support import Double\ninit_function = Double\n")
    settings_file = {"handler": "tensor", "handler_args": {"shape": [3]}, "model_file": "their_double.py", "weights": "model.pt"}
    (tmp_path / "torchrelay.json").write_text(json.dumps(settings_file))
    return Function(tmp_path)


@pytest.fixture
def own(tmp_path: Path) -> Function:
    (tmp_path / "their_lambda.py").write_text(OWN)
    (tmp_path / "torchrelay.json").write_text('{"handler": "their_lambda.py"}')
    return Function(tmp_path)


def first(body: Any, content_type: str = JSON, **more: Any) -> dict[str, Any]:
    """API Gateway's REST event, format 1.0."""
    return {
        "resource": "/{proxy+}", "path": "/predictions/digits", "httpMethod": "POST", "headers": {"Content-Type": content_type},
        "multiValueHeaders": {"Content-Type": [content_type]}, "requestContext": {"stage": "prod"}, "body": body,
        "isBase64Encoded": False, **more,
    }  # fmt: skip


def second(body: Any, content_type: str = JSON, **more: Any) -> dict[str, Any]:
    """API Gateway's HTTP event and a function URL's, format 2.0."""
    return {
        "version": "2.0", "rawPath": "/predictions/digits", "headers": {"content-type": content_type},
        "requestContext": {"http": {"method": "POST", "path": "/predictions/digits"}}, "body": body,
        "isBase64Encoded": False, **more,
    }  # fmt: skip


@pytest.mark.parametrize("event", [first, second])
def test_proxy_events_are_answered_in_proxy_form(tensor: Function, event: Any) -> None:
    assert tensor(event("[1, 2, 3]")) == {
        "statusCode": 200, "headers": {"content-type": JSON}, "body": "[2.0,4.0,6.0]", "isBase64Encoded": False,
    }  # fmt: skip
    encoded = base64.b64encode(b"1,2,3\n").decode()
    assert tensor(event(encoded, "text/csv", isBase64Encoded=True))["body"] == "[2.0,4.0,6.0]"
    refused = tensor(event("[1, 2]"))
    assert (refused["statusCode"], refused["headers"]["content-type"]) == (400, "application/problem+json")
    assert json.loads(refused["body"])["expected"] == {"shape": [3], "dtype": "float32"}


@pytest.mark.parametrize("event", [[1, 2, 3], {"input_data": [1, 2, 3]}, {"instances": [[1, 2, 3]]}])
def test_any_other_event_is_the_sample(tensor: Function, event: Any) -> None:
    answer = tensor(event)
    assert answer["statusCode"] == 200
    assert json.loads(answer["body"]) in ([2, 4, 6], {"predictions": [[2, 4, 6]]})


@pytest.mark.parametrize(
    ("event", "status"),
    [
        (first(None), 400), (first(""), 400), (first(3), 400), (first("%", isBase64Encoded=True), 400), (first("{"), 400),
        (first("[1, 2, 3]", httpMethod="PUT"), 405), (first("", httpMethod="GET"), 405), (second(None), 400),
        (second("\ud800"), 400), (None, 400), ("text", 400), ({}, 400),
        (first("[1,2,3]", headers=None, multiValueHeaders=None), 200),
        (first(None, httpMethod="GET", path="/prod/ping"), 200),
        (second(None, rawPath="/ping", requestContext={"http": {"method": "GET"}}), 200),
    ],
)  # fmt: skip
def test_events_have_their_status(tensor: Function, event: Any, status: int) -> None:
    assert tensor(event)["statusCode"] == status


def test_bytes_that_are_not_text_are_answered_in_base64(own: Function) -> None:
    answer = own(first("7"))
    assert (answer["isBase64Encoded"], base64.b64decode(answer["body"])) == (True, b"\xff\x00")
    assert answer["headers"] == {"content-type": "image/png"}


def test_the_model_is_loaded_once(own: Function) -> None:
    own.load()
    for value in ("1", "2"):
        assert json.loads(own(second(value))["body"]) == {"got": int(value)}
    assert sys.modules["their_lambda"].loads == [1]


def test_an_answer_that_lambda_would_not_return_is_a_problem(own: Function, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lambda_, "MOST_BYTES", 9)
    monkeypatch.setattr(lambda_, "_problem", lambda refusal: refusal.kind)
    assert own(first("100000")) == "answer-too-large"  # type: ignore[comparison-overlap] # the type is too narrow


def test_torchserve_and_sagemaker_handlers_serve_too(tmp_path: Path) -> None:
    (tmp_path / "their_native.py").write_text(
        "class H:\n def initialize(self, context): self.name = context.manifest['model']['modelName']\n"
        " def handle(self, data, context):\n  context.set_response_header(0, 'X-Kind',"
        " context.get_request_header(0, 'Content-Type'))\n"
        "  return [{'name': self.name, 'body': data[0]['body']}]\n"
    )
    (tmp_path / "torchrelay.json").write_text('{"handler": "their_native.py"}')
    (tmp_path / "MAR-INF").mkdir()
    (tmp_path / "MAR-INF" / "MANIFEST.json").write_text('{"model": {"modelName": "m"}}')
    (tmp_path / "model-config.yaml").write_text("batchSize: 1\n")
    answer = Function(tmp_path)(first("[1]"))
    assert json.loads(answer["body"]) == {"name": "m", "body": [1]}
    assert answer["headers"] == {"content-type": JSON, "x-kind": JSON}
    (tmp_path / "their_other.py").write_text("def handle(data, context): return [object()] if data else None\n")
    (tmp_path / "torchrelay.json").write_text('{"handler": "their_other.py"}')
    assert Function(tmp_path)(first("[1]"))["statusCode"] == 500


_KEYS = st.sampled_from(["requestContext", "httpMethod", "rawPath", "headers", "multiValueHeaders", "body", "isBase64Encoded", "x"])
_EVENTS: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["requestContext", "httpMethod", "rawPath", "headers", "body", "isBase64Encoded", "x"]), inner
        )
    ),
    max_leaves=8,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(event=_EVENTS)
def test_any_event_is_answered(tensor: Function, event: Any) -> None:
    answer = tensor(event)
    assert answer["statusCode"] in (200, 400, 405, 413, 415)
    json.dumps(answer)


def test_neither_this_module_nor_its_imports_import_torchserve(own: Function, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name == "ts" or name.startswith("ts.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "ts", None)  # importing it raises ImportError
    assert own(first("1"))["statusCode"] == 200
