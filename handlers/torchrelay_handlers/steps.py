"""What a handler does around the network, as plain functions; handlers differ only in these."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from torchrelay_handlers.bodies.tensors import NetworkInput


@dataclass(frozen=True, slots=True)
class AnswerContext:
    """The request's `Accept` header, whether the answer is the only one of its request, and preprocess's note."""

    accept: str
    alone: bool = True
    note: object = None


@dataclass(frozen=True, slots=True)
class Steps:
    """`preprocess` and `postprocess` see one sample without a batch dimension; `prepare` and `conclude` see batches.

    `prepare` works on the stacked batch on the device, before the network; `conclude` on the network's output, there.
    `expand` finds several samples in one body ([N, ...] where [...] is one), and is None for a handler that has no such bodies.
    `gather` sees the decoded samples of all requests at once, before `preprocess`, a list per request; a refusal in what it
    returns stands for a sample that could not be fetched.
    `admit` sees the samples of one request before any of them is preprocessed: it returns them, perhaps in another form, or refuses
    the request, because they are too much work together.
    `preprocess` may return `NotedSample`: `render` gets its note back in `AnswerContext`.
    `render` gets what postprocess returned, and the `AnswerContext`.
    `example` is a sample that the network must be able to take, run once when the model is loaded.
    `takes` lists the beginnings of content types besides those of JSON, forms and plain bytes; None takes every type.
    """

    preprocess: Callable[[object], object]
    postprocess: Callable[[Any], object]
    network_input: NetworkInput
    prepare: Callable[[Any], Any] | None = None
    conclude: Callable[[Any], Any] | None = None
    collate: Callable[[list[Any]], Any] | None = None
    gather: Callable[[list[list[object]]], list[list[object]]] | None = None
    admit: Callable[[list[object]], list[object]] | None = None
    render: Callable[[Any, AnswerContext], object] | None = None
    expand: Callable[[object], list[object] | None] | None = None
    example: Any = None
    check_example: Callable[[Any], None] | None = None
    takes: tuple[str, ...] | None = None


class Recipe(Protocol):
    """A kind of handler: `name` is its entry in the catalogue, `steps` makes its steps from these options."""

    @property
    def name(self) -> str:
        """A shipped name, or `own`."""
        ...

    def steps(self, options: Mapping[str, Any], model_dir: Path, dtype: torch.dtype | None) -> Steps:
        """The steps for `options` (complete); `dtype` is what the network's own weights suggest.

        Raises:
            ValueError: an option does not fit the others, or a file that it names is missing.
        """
        ...


def input_of(options: Mapping[str, Any], dtype: torch.dtype | None) -> NetworkInput:
    """The network's input by the options `shape` and `dtype`."""
    name = options.get("dtype", "auto")
    return NetworkInput(options.get("shape"), dtype if name == "auto" else getattr(torch, name))


def same(output: Any) -> object:
    """The output as it is."""
    return output
