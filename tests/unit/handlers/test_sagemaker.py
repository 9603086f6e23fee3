"""SageMaker's four functions as its toolkit calls them, with its defaults for those left out."""

import io
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from tests.unit.handlers.support import JSON, Double
from torchrelay_handlers.messages import Request
from torchrelay_handlers.sagemaker import SageMakerHandler
from torchrelay_handlers.settings import Settings


def handler(**functions: Any) -> SageMakerHandler:
    module = ModuleType("serve")
    vars(module).update({"model_fn": lambda _: Double().eval(), **functions})
    sagemaker_handler = SageMakerHandler(module)
    sagemaker_handler.start(Settings("serve.py"), Path("models"))
    return sagemaker_handler


def text_input(body: str, content_type: str) -> torch.Tensor:
    if content_type == JSON:
        return torch.tensor(json.loads(body))
    raise ValueError(f"Unsupported content type: {content_type}")


def text_output(prediction: torch.Tensor, content_type: str) -> object:
    if content_type == JSON:
        return prediction.numpy().tolist()
    raise ValueError(f"Unsupported content type: {content_type}")


def test_sagemaker_style_functions_work_unchanged() -> None:
    sagemaker_handler = handler(input_fn=text_input, predict_fn=lambda data, model: model(data).detach(), output_fn=text_output)
    (answer,) = sagemaker_handler.answer([Request(b"[[1.0, 2.0, 3.0]]", JSON)])
    assert (answer.status, answer.content_type, answer.json()) == (200, JSON, [[2, 4, 6]])


def test_a_body_that_torchserve_has_parsed_is_text_again() -> None:
    (answer,) = handler(input_fn=text_input, output_fn=text_output, predict_fn=lambda data, _: data).answer(
        [Request([[1, 2]], JSON, parsed=True)]
    )
    assert answer.json() == [[1, 2]]


def test_the_defaults_read_and_write_json_csv_and_npy() -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.array([[1, 2, 3]]))
    bodies = [(b"[[1, 2, 3]]", JSON), (b"1,2,3\n", "text/csv"), (buffer.getvalue(), "application/x-npy")]
    answers = handler().answer([Request(body, kind) for body, kind in bodies])
    assert [answer.json() for answer in answers] == [[[2, 4, 6]]] * 3
    csv, npy = handler().answer([Request(b"[[1, 2, 3]]", JSON, accept=accept) for accept in ("text/csv", "application/x-npy")])
    assert (csv.body, csv.content_type) == (b"2.0,4.0,6.0", "text/csv")
    assert np.load(io.BytesIO(npy.body)).tolist() == [[2, 4, 6]]


@pytest.mark.parametrize(
    ("body", "content_type", "accept", "status"),
    [(b"{", JSON, "", 400), (b'["x"]', JSON, "", 400), (b"x", "text/csv", "", 400), (b"x", "image/png", "", 415),
     (b"[[1, 2, 3]]", JSON, "image/png", 406), (b"not npy", "application/x-npy", "", 400), (b"[[1, 2]]", JSON, "", 500)],
)  # fmt: skip
def test_a_bad_request_is_its_own_error(body: bytes, content_type: str, accept: str, status: int) -> None:
    bad, good = handler().answer([Request(body, content_type, accept), Request(b"[[1, 2, 3]]", JSON)])
    assert (bad.status, good.status) == (status, 200)


def test_input_fns_own_refusals_are_4xx_and_later_failures_5xx() -> None:
    def broken(*_: Any) -> None:
        raise KeyError("x")

    assert handler(input_fn=broken).answer([Request(b"1", JSON)])[0].status == 400
    assert handler(input_fn=text_input).answer([Request(b"1", "text/csv")])[0].status == 415
    assert handler(predict_fn=broken).answer([Request(b"[1]", JSON)])[0].status == 500
    assert handler(output_fn=broken).answer([Request(b"[[1, 2, 3]]", JSON)])[0].status == 500


def test_output_fn_may_name_its_content_type() -> None:
    (answer,) = handler(output_fn=lambda *_: (b"\x89PNG", "image/png")).answer([Request(b"[[1, 2, 3]]", JSON)])
    assert (answer.body, answer.content_type) == (b"\x89PNG", "image/png")


def test_without_model_fn_the_declared_weights_are_loaded(tmp_path: Path) -> None:
    module = ModuleType("serve")
    vars(module).update(input_fn=text_input, init_function=Double)
    torch.save(Double().state_dict(), tmp_path / "model.pth")
    sagemaker_handler = SageMakerHandler(module)
    sagemaker_handler.start(Settings("serve.py", weights="model.pth"), tmp_path)
    assert sagemaker_handler.answer([Request(b"[[1.0, 2.0, 3.0]]", JSON)])[0].json() == [[2, 4, 6]]
