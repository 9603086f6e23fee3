"""Decorators and a class, beside the factory: the same handler, whichever way it is written."""

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from tests.unit.handlers.support import JSON, Double, differences
from torchrelay_handlers import Handler, SampleHandler, handler_factory, resolve
from torchrelay_handlers.settings import Settings


def answers(handler: Handler, *bodies: bytes) -> list[Any]:
    return [answer.json() for answer in handler.load(None).predict(bodies, JSON)]


def test_decorators_give_the_functions_and_their_arguments() -> None:
    handler = handler_factory()

    @handler.init(classes=2)
    def network(classes: int) -> nn.Module:
        layer = nn.Linear(3, classes, bias=False)
        nn.init.ones_(layer.weight)
        return layer

    @handler.preprocess(scale=10)
    def prepare(sample: Any, scale: float) -> Tensor:
        return torch.tensor(sample["x"]) * scale

    @handler.postprocess
    def conclude(output: Tensor) -> object:
        return {"outputs": output.tolist()}

    assert prepare({"x": [1.0]}, scale=2).tolist() == [2.0]  # still a function, to be tested as one
    assert answers(handler, b'{"x": [1.0, 2.0, 3.0]}') == [{"outputs": [60.0, 60.0]}]
    assert answers(handler.configure(init_kwargs={"classes": 1}), b'{"x": [1.0, 2.0, 3.0]}') == [{"outputs": [60.0]}]


def test_collate_gets_its_arguments() -> None:
    handler = handler_factory(Double)

    @handler.collate(times=3)
    def collate(samples: list[Tensor], times: int) -> Tensor:
        return torch.stack(samples) * times

    assert answers(handler, b"[1, 1, 1]", b"[2, 2, 2]") == [[6, 6, 6], [12, 12, 12]]


def test_a_second_function_for_the_same_thing_is_refused() -> None:
    handler = handler_factory(preprocess_function=len)
    with pytest.raises(ValueError, match="preprocess_function already: len"):
        handler.preprocess(sum)


class Summing(SampleHandler):
    options: ClassVar[dict[str, Any]] = {"shape": [3]}

    def __init__(self) -> None:
        self.seen = 0

    def init_function(self, factor: float = 1.0) -> nn.Module:
        network = Double()
        network.factor.data *= factor
        return network

    def preprocess(self, sample: Any) -> Tensor:
        self.seen += 1
        return torch.tensor(sample)

    def postprocess(self, output: Tensor) -> object:
        return output.sum().item()


def test_a_class_is_a_handler() -> None:
    assert answers(Summing.as_handler(factor=2.0), b"[1.0, 2.0, 3.0]", b"[0.0, 0.0, 1.0]") == [24.0, 4.0]
    assert Summing.as_handler().load(None).predict([b"[1.0]"], JSON)[0].status == 400


def test_the_library_supplies_methods_that_a_class_leaves_out() -> None:
    class Collating(SampleHandler):
        def init_function(self) -> nn.Module:
            return Double()

        def collate(self, samples: list[Tensor]) -> Tensor:
            return torch.stack(samples) + 1

    assert answers(Collating.as_handler(), b'{"input_data": [1, 2, 3]}') == [[4, 6, 8]]
    assert SampleHandler.as_handler().init_function is None


@pytest.mark.parametrize("attribute", ["", ":Mine"])
def test_a_class_is_found_in_the_authors_file(tmp_path: Path, attribute: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    code = "from torchrelay_handlers import SampleHandler as S\nclass Mine(S):\n    def postprocess(self, output): return 'mine'\n"
    (tmp_path / f"class_style{len(attribute)}.py").write_text(code)
    handler = resolve.find(Settings(f"class_style{len(attribute)}.py{attribute}", handler_args={"nan": "refuse"}), tmp_path)
    assert isinstance(handler, Handler)
    handler.init_function = Double
    assert answers(handler, b"[1, 2, 3]") == ["mine"]
    assert handler.options["nan"] == "refuse"


class Masked(nn.Module):
    """[N, T] -> [N, T] running sums, and the sum; -1 is padding."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[int] = []

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        self.batches.append(len(x))
        x = torch.where(x == -1, 0, x)
        return {"each": x.cumsum(1), "sum": x.sum(1)}


def test_padding_lets_unequal_shapes_share_a_batch_and_answers_are_cut_back() -> None:
    network = Masked()
    handler = handler_factory(lambda: network, options={"pad": -1, "cut_padding": True}).load(None)
    bodies = [b"[1, 2, 3]", b"[4]", b"[5, 6]", b"[7, 8, 9]"]
    assert [answer.json() for answer in handler.predict(bodies, JSON)] == [
        {"each": [1, 3, 6], "sum": 6}, {"each": [4], "sum": 4}, {"each": [5, 11], "sum": 11}, {"each": [7, 15, 24], "sum": 24}
    ]  # fmt: skip
    assert network.batches == [4]

    def serve(some: list[bytes]) -> list[tuple[int, bytes]]:
        return [(answer.status, answer.body) for answer in handler.predict(some, JSON)]

    assert differences(serve, [*bodies, b"[[1], [2]]", b"null", b"[0.5, 1]"]) == []


def test_without_padding_unequal_shapes_are_apart() -> None:
    network = Masked()
    handler_factory(lambda: network).load(None).predict([b"[1, 2]", b"[3]", b"[4]"], JSON)
    assert sorted(network.batches) == [1, 2]


def test_named_inputs_have_their_own_padding() -> None:
    class Named(nn.Module):
        def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
            assert bool((ids[mask == 0] == 9).all())
            return (ids * mask).sum(-1)

    def preprocess(sample: Any) -> dict[str, Tensor]:
        return {"ids": torch.tensor(sample), "mask": torch.ones(len(sample), dtype=torch.int64)}

    handler = handler_factory(Named, preprocess, options={"pad": {"ids": 9}, "dtype": "int64"})
    assert answers(handler, b"[1, 2, 3]", b"[4]", b"[5, 6]") == [6, 4, 11]


@pytest.mark.parametrize("pad", ["0", [0], {"ids": "x"}, True])
def test_padding_is_a_number(pad: object) -> None:
    with pytest.raises(ValueError, match=r"handler_args\.pad: must be a number"):
        handler_factory(Double, options={"pad": pad})
