"""The handler: requests in, exactly as many answers out, in order; no sample can harm another.

    handler = handler_factory(init_function, preprocess_function=preprocess).load("model.pt")
    answers = handler.predict([b"[1, 2, 3]", b"[4, 5, 6]"])

It knows no server: adapters turn a server's batch into `Request`s and the `Answer`s back.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from torchrelay_handlers import catalogue
from torchrelay_handlers.answers import Answers, problem, unforeseen
from torchrelay_handlers.intake import Intake, Wrap
from torchrelay_handlers.messages import Answer, Request
from torchrelay_handlers.network import device
from torchrelay_handlers.network.batch import Batcher, Failure, Sample, moved
from torchrelay_handlers.network.network import make_network
from torchrelay_handlers.network.outputs import on_cpu
from torchrelay_handlers.network.padding import Padding
from torchrelay_handlers.problems import Refusal, WorkerLost
from torchrelay_handlers.settings import Settings
from torchrelay_handlers.steps import Recipe, Steps

logger = logging.getLogger("torchrelay")

TORCHSERVE = "torchrelay_handlers.adapters.torchserve"
"""A name, not an import: the core does not depend on any server, and only a TorchServe worker loads this adapter."""


@dataclass(slots=True)
class _Work:
    """A request in progress: its samples are `rows` of the batch, `wrap` makes one answer from their results."""

    index: int
    rows: range
    wrap: Wrap


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
        self.options: dict[str, Any] = catalogue.with_defaults(recipe.name, options or {})
        self._torchserve: Callable[[Any, Any], list[Any] | None] | None = None

    def configure(self, options: Mapping[str, Any] | None = None, init_kwargs: Mapping[str, Any] | None = None) -> Self:
        """Options and init arguments of model.yaml, on top of those that the author's Python gave.

        Raises:
            ValueError: an option is unknown or has a wrong value.
        """
        catalogue.require_valid(self.recipe.name, options or {})
        self.options |= options or {}
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
        weights_format: str | None = None,
    ) -> Self:
        """Load the network onto its device and run it once if a sample is known. `on` is cpu, gpu, mps or auto.

        `weights_format` allows weights that execute code: torchscript, pt2 or aoti. Without it, only data is loaded.

        Raises:
            WeightsError, RuntimeError, ValueError: the model cannot serve; the message says why.
        """
        path = Path(weights) if weights is not None else None
        folder = Path(model_dir) if model_dir is not None else (path.parent if path else Path())
        self.device = device.choose(on, gpu_id)
        device.cap_memory(self.device, self.options["max_gpu_memory_mb"])
        threads = device.set_threads(workers) if self.device.type == "cpu" else torch.get_num_threads()
        network = make_network(path, self.init_function, self.init_kwargs, self.device, self.options, weights_format)
        self.steps: Steps = self.recipe.steps(self.options, folder, network.dtype)
        self._model = network.call
        pad = self.options.get("pad")
        padding = None if pad is None else Padding(pad, cut=self.options["cut_padding"])
        self._batcher = Batcher(self._forward, max(1, batch_size), self.steps.collate, padding)
        self._intake = Intake(self.steps, self.options)
        self._answers = Answers(self.steps, self._batcher, refuse_nan=self.options["nan"] == "refuse")
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
            weights_format=settings.weights_format,
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
        notes: list[object] = []
        decoded = self._intake.decoded(requests)
        with torch.inference_mode():
            for index, request in enumerate(requests):
                try:
                    values, wrap = self._intake.samples_of(request) if decoded is None else decoded[index]
                    if self.steps.admit is not None:
                        values = self.steps.admit(values)
                    ready = [self._intake.prepared(value, row if wrap else None) for row, value in enumerate(values)]
                except Refusal as refusal:
                    answers[index] = problem(refusal)
                    continue
                except Exception as error:
                    answers[index] = problem(unforeseen(request, error))
                    continue
                work.append(_Work(index, range(len(samples), len(samples) + len(ready)), wrap))
                samples += [sample for sample, _ in ready]
                notes += [note for _, note in ready]
            try:
                if self.lost:
                    raise WorkerLost("the device was lost before")
                results = self._batcher.run(samples)
            except WorkerLost as error:
                self.lost = True
                logger.critical("the device is lost; this worker ends", exc_info=error)
                lost = Refusal(503, "worker-lost", "the worker lost its device and is being replaced; try again")
                return [answer or problem(lost, {"retry-after": "5"}) for answer in answers]
            for item in work:
                try:
                    rows = slice(item.rows.start, item.rows.stop)
                    answers[item.index] = self._answers.of(results[rows], notes[rows], item.wrap, requests[item.index].accept)
                except Refusal as refusal:
                    if refusal.status >= 500 or refusal.__cause__ is not None:
                        logger.error(  # noqa: TRY400 - the traceback wanted is the cause's
                            "request %s: %s", requests[item.index].id, refusal.detail, exc_info=refusal.__cause__ or refusal
                        )
                    answers[item.index] = problem(refusal)
                except Exception as error:
                    answers[item.index] = problem(unforeseen(requests[item.index], error))
        return [answer for answer in answers if answer is not None]

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

    def __call__(self, data: Any, context: Any) -> list[Any] | None:
        """A TorchServe entry point: `--handler handler.py:handler` names this object and stock TorchServe calls it."""
        if self._torchserve is None:
            self._torchserve = import_module(TORCHSERVE).Service(self)
        return self._torchserve(data, context)
