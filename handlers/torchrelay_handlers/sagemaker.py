"""SageMaker's model_fn, input_fn, predict_fn and output_fn, as they are, with the toolkit's defaults for those left out.

Defaults by aws/sagemaker-pytorch-inference-toolkit 2.0.x, default_pytorch_inference_handler.py. The functions see one whole request
and may do anything, so requests are answered one by one; a body may itself hold a batch.
"""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from torchrelay_handlers.answers import problem
from torchrelay_handlers.bodies import json_out, parsers, tensors
from torchrelay_handlers.bodies.accepted import refuse_unsupported
from torchrelay_handlers.bodies.decode import media_type
from torchrelay_handlers.messages import JSON, Answer, Request
from torchrelay_handlers.network import device, loading
from torchrelay_handlers.problems import BadSample, Refusal
from torchrelay_handlers.settings import Settings

FUNCTION_NAMES = ("model_fn", "input_fn", "predict_fn", "output_fn")
CSV = "text/csv"
NPY = "application/x-npy"

logger = logging.getLogger("torchrelay")


class SageMakerHandler:
    """Call `start` before the first request; `answer` works as `Handler.answer`."""

    def __init__(self, module: ModuleType) -> None:
        self.module = module
        self.init_function = getattr(module, "init_function", None)
        self.lost = False
        self.model: Any = None

    def start(self, settings: Settings, model_dir: Path, gpu_id: int | None = None) -> None:
        """Choose the device and let model_fn load the model."""
        self.device = device.choose(settings.device, gpu_id)
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)  # the author's torch.device("cuda") is then the assigned one
        device.set_threads(settings.workers)
        model_fn = getattr(self.module, "model_fn", None)
        if model_fn is not None:
            self.model = model_fn(str(model_dir))
        elif settings.weights is not None:
            path = model_dir / settings.weights
            self.model = loading.load(path, self.init_function, self.device, settings.weights_format).call
        else:
            raise RuntimeError("the handler file has no model_fn, and no weights are declared")

    def answer(self, requests: Sequence[Request]) -> list[Answer]:
        """One answer per request, in order."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Request) -> Answer:
        if self.lost:
            return problem(Refusal(503, "worker-lost", "the worker lost its device and is being replaced; try again"))
        stage = "input_fn"
        try:
            refuse_unsupported(request, None)
            content_type = media_type(request.content_type) or JSON
            accept = media_type(request.accept)
            accept = JSON if accept in ("", "*/*") or "," in accept else accept
            data = getattr(self.module, "input_fn", self._input)(_body(request), content_type)
            stage = "predict_fn"
            prediction = getattr(self.module, "predict_fn", self._predict)(data, self.model)
            stage = "output_fn"
            return _as_answer(getattr(self.module, "output_fn", self._output)(prediction, accept), accept)
        except Refusal as refusal:
            return problem(refusal)
        except Exception as error:
            self.lost = device.is_sticky(error)
            logger.error("request %s: %s failed", request.id, stage, exc_info=error)  # noqa: TRY400 - exc_info is that
            if stage == "input_fn":
                unsupported = "unsupported" in str(error).lower()
                status, kind = (415, "unsupported-media-type") if unsupported else (400, "bad-sample")
                return problem(BadSample(f"input_fn: {type(error).__name__}: {error}", status=status, kind=kind))
            return problem(Refusal(500, "forward-failed", f"{stage} failed on this request; the server's log says why"))

    def _input(self, body: Any, content_type: str) -> Any:
        network_input = tensors.NetworkInput(None, tensors.own_dtype(self.model))
        if content_type == JSON:
            return network_input.of(parsers.parse_json(body)).to(self.device)
        if content_type == CSV:
            return network_input.of(parsers.parse_csv(body if isinstance(body, str) else body.decode())).to(self.device)
        if content_type == NPY:
            return network_input.of(parsers.parse_npy(body)).to(self.device)
        raise BadSample(
            f"unsupported content type {content_type}", expected=[JSON, CSV, NPY], status=415, kind="unsupported-media-type"
        )

    def _predict(self, data: Any, model: Any) -> Any:
        with torch.inference_mode():
            return model(data)

    def _output(self, prediction: Any, accept: str) -> Any:
        values = prediction.detach().cpu() if isinstance(prediction, torch.Tensor) else prediction
        if accept == CSV:
            rows = values.reshape(values.shape[0], -1).tolist() if values.dim() else [[values.item()]]
            return "\n".join(",".join(map(str, row)) for row in rows)
        if accept == NPY:
            return tensors.npy_file(values)
        if accept != JSON:
            raise BadSample(f"answers in {accept} are not supported", expected=[JSON, CSV, NPY], status=406, kind="not-acceptable")
        return json_out.encode(values).decode()


def _body(request: Request) -> Any:
    """The argument of input_fn: the body's text for text and JSON, bytes otherwise, as in the toolkit."""
    body = request.body
    if request.parsed:
        return body if isinstance(body, str) and media_type(request.content_type) != JSON else json.dumps(body)
    if isinstance(body, bytes) and (
        media_type(request.content_type) in ("", JSON, CSV) or request.content_type.startswith("text/")
    ):
        return parsers.parse_text(body, "text/plain")
    return body


def _as_answer(output: Any, accept: str) -> Answer:
    """output_fn may return text, bytes, (body, content type), or plain Python values, as many authors write it."""
    content_type = accept
    if isinstance(output, tuple) and len(output) == 2 and isinstance(output[1], str) and "/" in output[1]:
        output, content_type = output
    if isinstance(output, str):
        return Answer(200, output.encode(), content_type)
    if isinstance(output, bytes | bytearray):
        return Answer(200, bytes(output), content_type)
    return Answer(200, json_out.encode(output), JSON)
