"""A batch's output is split so that every sample gets what it gets alone, whatever type the network answers with."""

import enum
from collections import OrderedDict, namedtuple
from collections.abc import Callable
from dataclasses import dataclass, is_dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from torchrelay_handlers.network.batch import Batcher, Failure
from torchrelay_handlers.network.outputs import CannotSplitError, on_cpu, split

Named = namedtuple("Named", ["a", "b"])


@dataclass(frozen=True)
class Frozen:
    logits: Tensor
    name: str = "same"


@dataclass
class ModelOutput(OrderedDict[str, Any]):
    """As in transformers: a dict whose items are attributes too."""

    logits: Any = None
    loss: Any = None

    def __post_init__(self) -> None:
        for name in ("logits", "loss"):
            if getattr(self, name) is not None:
                self[name] = getattr(self, name)

    def __setitem__(self, name: str, value: Any) -> None:
        super().__setitem__(name, value)
        object.__setattr__(self, name, value)


class Slotted:
    __slots__ = ("a", "b")

    def __init__(self, a: Any, b: Any) -> None:
        self.a, self.b = a, b


class Plain:
    def __init__(self, scores: Tensor) -> None:
        self.scores = scores
        self.kind = "plain"


class Kind(enum.Enum):
    ONE = 1


# network's answer to [N, 3]
FORWARDS: dict[str, Callable[[Tensor], Any]] = {
    "a tensor": lambda x: x * 2,
    "a vector": lambda x: x.sum(1),
    "no batch for one": lambda x: x.sum(1).squeeze(),
    "a tuple": lambda x: (x, x.sum(1)),
    "a list of two": lambda x: [x, x + 1],
    "a list of three": lambda x: [x, x + 1, x.sum(1)],
    "a list with a tuple": lambda x: [x, (x + 1, x + 2)],
    "a list of tuples": lambda x: [(x, x + 1), (x + 2, x + 3)],
    "a dict": lambda x: {"logits": x, "hidden": (x, [x, x, x, x + 1]), "loss": None, "kind": "k", "one": Kind.ONE},
    "a named tuple": lambda x: Named(x, Named(x + 1, None)),
    "a namespace": lambda x: SimpleNamespace(logits=x, inner=SimpleNamespace(hidden=x + 1), temperature=0.5),
    "a dataclass": Frozen,
    "a ModelOutput": lambda x: ModelOutput(logits=x),
    "a class with slots": lambda x: Slotted(x, x + 1),
    "a plain object": Plain,
    "an array": lambda x: x.numpy() * 2,
    "detections": lambda x: [{"boxes": row[: int(row[0]) % 3], "label": "a"} for row in x],
    "detections as objects": lambda x: [SimpleNamespace(boxes=row[:2]) for row in x],
    "words": lambda x: [f"word {int(row[0])}" for row in x],
    "a dict with words": lambda x: {"logits": x, "words": [f"word {int(row[0])}" for row in x]},
    "an object of words": lambda x: SimpleNamespace(words=[f"word {int(row[0])}" for row in x]),
    "a tuple of words": lambda x: tuple(f"word {int(row[0])}" for row in x),
    "a list of the samples' tensors": lambda x: [row.repeat(len(x), 1) for row in x],
}


def plain(value: Any) -> Any:
    """A value as numbers, texts, lists and dicts, with the names of its types."""
    if isinstance(value, Failure):
        raise value.error
    if isinstance(value, Tensor | np.ndarray):
        return value.tolist()
    if isinstance(value, list | tuple):
        return [type(value).__name__, *map(plain, value)]
    if isinstance(value, dict):
        return {name: plain(part) for name, part in value.items()} | {"type": type(value).__name__}
    if is_dataclass(value) or (hasattr(value, "__dict__") and not isinstance(value, enum.Enum)):
        return {name: plain(part) for name, part in vars(value).items()} | {"type": type(value).__name__}
    if hasattr(value, "__slots__") and isinstance(value, Slotted):
        return [plain(value.a), plain(value.b)]
    return value


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 8])
@pytest.mark.parametrize("kind", FORWARDS)
def test_a_sample_gets_in_a_batch_what_it_gets_alone(kind: str, count: int) -> None:
    samples = [torch.tensor([float(number), number + 0.25, number + 0.5]) for number in range(10, 10 + count)]

    def forward(batch: Tensor) -> Any:
        return on_cpu(FORWARDS[kind](batch))

    together = Batcher(forward, 8).run(samples)
    if kind == "a list of the samples' tensors":  # its size is the batch's: only that no sample sees another's is required
        own = [{value for row in _numbers(plain(result)) for value in [row]} for result in together]
        assert all(numbers <= set(samples[row].tolist()) for row, numbers in enumerate(own))
        return
    for sample, result in zip(samples, together, strict=True):
        (alone,) = Batcher(forward, 8).run([sample])
        assert plain(result) == plain(alone)


def _numbers(value: Any) -> list[float]:
    if isinstance(value, list):
        return [number for item in value for number in _numbers(item)]
    return [value] if isinstance(value, float) else []


@pytest.mark.parametrize("kind", ["a list of two", "a list of three", "a list of tuples"])
def test_a_list_as_long_as_the_batch_does_not_end_batching(kind: str) -> None:
    batcher = Batcher(FORWARDS[kind], 8)
    for count in (2, 3, 4, 8):
        batcher.run([torch.ones(3)] * count)
    assert batcher.limit == 8


class Opaque:
    """Nothing in it can be found."""

    __slots__ = ()


@pytest.mark.parametrize("answer", [Opaque(), "text", 1.5, None, {"a": 1}, {1, 2}, [1, 2, 3], (1, 2), iter([1]), torch.Size([2])])
def test_what_cannot_be_split_is_refused_by_name_and_nobody_gets_it(answer: Any) -> None:
    with pytest.raises(CannotSplitError, match=type(answer).__name__):
        split(answer, 2)
    if not isinstance(answer, list):
        assert split(answer, 1) == [answer]


def test_an_output_without_the_batch_is_an_error_but_for_one_sample() -> None:
    for tensor in (torch.zeros(3), torch.tensor(1.0)):
        with pytest.raises(CannotSplitError, match="first dimension must be 2"):
            split(tensor, 2)
    assert split(torch.zeros(3), 1)[0].shape == (3,)


def test_an_object_that_holds_itself_is_an_error_and_not_a_hang() -> None:
    turning = SimpleNamespace(x=torch.ones(2, 3))
    turning.me = turning
    (first, second) = Batcher(lambda _: on_cpu(turning), 8).run([torch.ones(3)] * 2)
    assert isinstance(first, Failure)
    assert isinstance(second, Failure)
