"""The handler: requests in, exactly as many answers out, in order; no sample can harm another.

    handler = handler_factory(init_function, preprocess_function=preprocess).load("model.pt")
    answers = handler.predict([b"[1, 2, 3]", b"[4, 5, 6]"])

It knows no server: adapters turn a server's batch into `Request`s and the `Answer`s back.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from torchrelay_handlers import catalogue, device, inputs, json_out, parsers
from torchrelay_handlers.batch import Batcher, Failure, Sample, described, moved, on_cpu
from torchrelay_handlers.messages import Answer, Request
from torchrelay_handlers.network import make as make_network
from torchrelay_handlers.padding import Padding
from torchrelay_handlers.problems import CONTENT_TYPE, BadSample, Refusal, WorkerLost
from torchrelay_handlers.settings import Settings
from torchrelay_handlers.steps import Recipe, Steps

logger = logging.getLogger("torchrelay")


@dataclass(slots=True)
class _Work:
    """A request on its way: its samples are `rows` of the batch, `wrap` makes one answer of their results."""

    index: int
    rows: range
    wrap: Callable[[list[object]], object] | None


class Handler:
    """Made by `handler_factory` or by the name of a shipped handler; `load` before the first request."""

    def __init__(
        self, recipe: Recipe, *, init_function: Callable[..., nn.Module] | None = None, options: Mapping[str, Any] | None = None
    ) -> None:
        self.recipe = recipe
        self.init_function = init_function
        self.init_kwargs: dict[str, Any] = {}
        self.install_packages: Callable[[], object] | None = None
        self.unpack_dependencies: Callable[[], object] | None = None
        self.lost = False
        self._given: dict[str, Any] = dict(options or {})
        self.options: dict[str, Any] = catalogue.with_defaults(recipe.name, self._given)
        self._torchserve: Callable[[Any, Any], list[Any] | None] | None = None

    def configure(self, options: Mapping[str, Any] | None = None, init_kwargs: Mapping[str, Any] | None = None) -> Self:
        """Options and init arguments of model.yaml, on top of those that the author's Python gave.

        Raises:
            ValueError: an option is unknown or has a wrong value.
        """
        self._given |= dict(options or {})
        self.options = catalogue.with_defaults(self.recipe.name, self._given)
        self.init_kwargs |= dict(init_kwargs or {})
        return self

    def load(
        self,
        weights: str | Path | None,
        *,
        model_dir: str | Path | None = None,
        on: str = "cpu",
        gpu_id: int | None = None,
        workers: int = 1,
        batch_size: int = 32,
    ) -> Self:
        """Load the network onto its device and run it once if a sample is known. `on` is cpu, gpu, mps or auto.

        Raises:
            WeightsError, RuntimeError, ValueError: the model cannot serve; the message says why.
        """
        path = Path(weights) if weights is not None else None
        folder = Path(model_dir) if model_dir is not None else (path.parent if path else Path())
        self.device = device.choose(on, gpu_id)
        device.cap_memory(self.device, self.options["max_gpu_memory_mb"])
        threads = device.set_threads(workers) if self.device.type == "cpu" else torch.get_num_threads()
        network = make_network(path, self.init_function, self.init_kwargs, self.device, self.options)
        self.steps: Steps = self.recipe.steps(self.options, folder, network.dtype)
        self._model = network.call
        pad = self.options.get("pad")
        padding = None if pad is None else Padding(pad, cut=self.options["cut_padding"])
        self._batcher = Batcher(self._forward, max(1, batch_size), self.steps.collate, padding)
        self._refuse_nan = self.options["nan"] == "refuse"
        self._run_example()
        logger.info("model loaded on %s, batches of up to %d, %d threads", self.device, batch_size, threads)
        return self

    def _run_example(self) -> None:
        if self.steps.example is None:
            return
        with torch.inference_mode():
            (result,) = self._batcher.run([self.steps.example])
        if isinstance(result, Failure):
            raise RuntimeError(  # noqa: TRY004 - a Failure is a result here, not an argument of a wrong type
                f"the network fails on an input of the declared shape {list(self.steps.example.shape)}: {result.error}"
            ) from result.error
        if self.steps.check_example is not None:
            self.steps.check_example(result)

    def start(self, settings: Settings, model_dir: Path, gpu_id: int | None = None) -> None:
        """Load as torchrelay.json says (`Settings`), with the GPU that the server assigned."""
        self.load(
            model_dir / settings.weights if settings.weights else None,
            model_dir=model_dir,
            on=settings.device,
            gpu_id=gpu_id,
            workers=settings.workers,
            batch_size=settings.batch_size,
        )

    def predict(self, bodies: Sequence[object], content_type: str = "") -> list[Answer]:
        """Answers without a server. A body is bytes (read by `content_type`), a `Request`, or a JSON value as it is."""
        return self.answer(
            [
                body if isinstance(body, Request) else Request(body, content_type, parsed=not isinstance(body, bytes | bytearray))
                for body in bodies
            ]
        )

    def answer(self, requests: Sequence[Request]) -> list[Answer]:
        """One answer per request, in order, whatever is in them. Sets `lost` when this process must end."""
        answers: list[Answer | None] = [None] * len(requests)
        work: list[_Work] = []
        samples: list[Sample] = []
        decoded = self._gathered(requests) if self.steps.gather is not None else None
        with torch.inference_mode():
            for index, request in enumerate(requests):
                try:
                    values, wrap = self._samples_of(request) if decoded is None else decoded[index]
                    ready = [self._preprocess(value, row if wrap else None) for row, value in enumerate(values)]
                except Refusal as refusal:
                    answers[index] = _problem(refusal)
                    continue
                except Exception as error:
                    answers[index] = _bug(request, error)
                    continue
                work.append(_Work(index, range(len(samples), len(samples) + len(ready)), wrap))
                samples += ready
            try:
                if self.lost:
                    raise WorkerLost("the device was lost before")
                results = self._batcher.run(samples)
            except WorkerLost as error:
                self.lost = True
                logger.critical("the device is lost; this worker ends", exc_info=error)
                lost = Refusal(503, "worker-lost", "the worker lost its device and is being replaced; try again")
                return [answer or _problem(lost, {"retry-after": "5"}) for answer in answers]
            for item in work:
                try:
                    answers[item.index] = self._answer_of(item, [results[row] for row in item.rows], requests[item.index].accept)
                except Refusal as refusal:
                    if refusal.status >= 500 or refusal.__cause__ is not None:
                        logger.error(  # noqa: TRY400 - the traceback wanted is the cause's
                            "request %s: %s", requests[item.index].id, refusal.detail, exc_info=refusal.__cause__ or refusal
                        )
                    answers[item.index] = _problem(refusal)
                except Exception as error:
                    answers[item.index] = _bug(requests[item.index], error)
        return [answer for answer in answers if answer is not None]

    def _gathered(self, requests: Sequence[Request]) -> list[tuple[list[object], Callable[[list[object]], object] | None]]:
        """`_samples_of` each request, after `gather` has seen them all."""
        assert self.steps.gather is not None  # noqa: S101 - for the type checker
        decoded: list[tuple[list[object], Callable[[list[object]], object] | None]] = []
        for request in requests:
            try:
                decoded.append(self._samples_of(request))
            except Exception as error:
                decoded.append(([error if isinstance(error, Refusal) else _unforeseen(request, error)], None))
        try:
            gathered = self.steps.gather([values for values, _ in decoded])
        except Exception as error:
            gathered = [[_unforeseen(request, error)] for request in requests]
        return [(values, wrap) for values, (_, wrap) in zip(gathered, decoded, strict=True)]

    def _samples_of(self, request: Request) -> tuple[list[object], Callable[[list[object]], object] | None]:
        value = inputs.decode(request)
        if isinstance(value, parsers.Rows):
            inputs.refuse_many(len(value), self.options["max_instances"])
            return (list(value), None) if len(value) == 1 else (list(value), list)
        several = inputs.instances(value, self.options["max_instances"])
        if several is not None:
            return several, _predictions
        if self.steps.expand is not None:
            several = self.steps.expand(value)
            if several is not None:
                inputs.refuse_many(len(several), self.options["max_instances"])
                return several, list
        return [value], None

    def _preprocess(self, value: object, row: int | None) -> Sample:
        try:
            if isinstance(value, Refusal):
                raise value
            return self.steps.network_input.of(self.steps.preprocess(value))
        except Refusal as refusal:
            if row is not None:
                refusal.members["instance"] = row
            raise
        except MemoryError as error:
            raise Refusal(503, "out-of-memory", "there is not enough memory for this sample") from error
        except Exception as error:
            logger.warning("preprocess failed on a sample", exc_info=error)
            failed = BadSample(f"preprocess failed: {type(error).__name__}: {error}", kind="preprocess-failed")
            failed.members["instance"] = row
            raise failed from error

    def _forward(self, batch: Any) -> Any:
        """The network on a stacked batch; the result is on the CPU, half precision widened for numpy's and JSON's sake."""
        batch = moved(batch, self.device, channels_last=self.options["channels_last"])
        if self.steps.prepare is not None:
            batch = self.steps.prepare(batch)
        if isinstance(batch, Tensor):
            output = self._model(batch)
        elif isinstance(batch, Mapping):
            output = self._model(**batch)
        else:
            output = self._model(*batch)
        if self.steps.conclude is not None:
            output = self.steps.conclude(output)
        return on_cpu(output)

    def _answer_of(self, work: _Work, results: list[Any], accept: str) -> Answer:
        values: list[object] = []
        for row, result in enumerate(results):
            try:
                values.append(self._postprocess(result))
            except Refusal as refusal:
                if work.wrap is not None:
                    refusal.members["instance"] = row
                raise
        if self.steps.render is not None:
            values = [self.steps.render(value, accept if work.wrap is None else "") for value in values]
        value = values[0] if work.wrap is None else work.wrap(values)
        if isinstance(value, json_out.Raw):
            return Answer(200, value.body, value.content_type)
        try:
            return Answer(200, json_out.encode(value, refuse_nan=self._refuse_nan))
        except json_out.NotFinite as error:
            raise Refusal(422, "not-finite", f"{error}, which this model is told to refuse") from None
        except TypeError as error:
            raise Refusal(500, "bad-answer", "the handler returned something that has no JSON form") from error

    def _postprocess(self, result: Any) -> object:
        if isinstance(result, Failure):
            raise self._failed(result)
        try:
            return self.steps.postprocess(result)
        except Refusal:
            raise
        except Exception as error:
            raise Refusal(422, "postprocess-failed", f"postprocess failed: {type(error).__name__}: {error}") from error

    def _failed(self, failure: Failure) -> Refusal:
        """The sender's fault if samples of other shapes went through and this one's never did; else ours."""
        seen = self._batcher.succeeded
        if failure.signature is not None and seen and failure.signature not in seen and not device.is_out_of_memory(failure.error):
            return BadSample(
                "the network does not take a sample of this shape and dtype",
                expected=[described(key) for key in list(seen)[:3]],
                got=described(failure.signature),
                kind="bad-tensor",
            )
        refusal = Refusal(500, "forward-failed", "the network failed on this sample; the server's log says why")
        if device.is_out_of_memory(failure.error):
            refusal = Refusal(503, "out-of-memory", "there is not enough memory for this sample")
        refusal.__cause__ = failure.error
        return refusal

    def __call__(self, data: Any, context: Any) -> list[Any] | None:
        """A TorchServe entry point: `--handler handler.py:handler` names this object and stock TorchServe calls it."""
        if self._torchserve is None:
            from torchrelay_handlers.adapters.torchserve import Service  # noqa: PLC0415 - only under that server

            self._torchserve = Service(self)
        return self._torchserve(data, context)


def _predictions(values: list[object]) -> object:
    return {"predictions": values}


def _problem(refusal: Refusal, headers: dict[str, str] | None = None) -> Answer:
    return Answer(refusal.status, json_out.encode(refusal.document()), CONTENT_TYPE, headers or {})


def _bug(request: Request, error: Exception) -> Answer:
    return _problem(_unforeseen(request, error))


def _unforeseen(request: Request, error: Exception) -> Refusal:
    """What was not foreseen stays with the request that it happened to."""
    logger.error("request %s failed", request.id, exc_info=error)
    return Refusal(500, "internal", "the server failed on this request; its log says why")
