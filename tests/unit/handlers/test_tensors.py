"""JSON numbers as a network's input, and refusals that name what was expected."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from torchrelay_handlers.bodies import tensors
from torchrelay_handlers.bodies.tensors import NetworkInput
from torchrelay_handlers.problems import BadSample

FOUR = NetworkInput([4], torch.float32)


@pytest.fixture(params=["numpy", "torch alone"])
def converter(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "torch alone":
        monkeypatch.setattr(tensors, "np", None)


@pytest.mark.usefixtures("converter")
@pytest.mark.parametrize("value", [[1, 2, 3, 4], [1.0, 2.0, 3.0, 4.0], [1, 2.0, 3, 4], (1, 2, 3, 4), torch.tensor([1, 2, 3, 4])])
def test_integers_become_the_networks_dtype(value: object) -> None:
    got = FOUR.of(value)
    assert got.dtype == torch.float32
    assert got.tolist() == [1.0, 2.0, 3.0, 4.0]


@pytest.mark.usefixtures("converter")
@pytest.mark.parametrize(
    "value",
    [
        None, "1", True, {}, {"a": 1}, [], [[]], [None], ["1", "2", "3", "4"], [1, "2", 3, 4], [1, None, 3, 4], [True] * 4,
        [[1, 2], [3]], [1, 2, 3], [1, 2, 3, 4, 5], [[1, 2, 3, 4]], 4, [10**400, 1, 1, 1], [1e39, 1, 1, 1], [float("inf"), 1, 1, 1],
        [float("nan"), 1, 1, 1], [{}, {}, {}, {}], b"abcd", [b"a", b"b", b"c", b"d"],
    ],
)  # fmt: skip
def test_a_sample_other_than_four_numbers_is_refused_with_the_expected_shape(value: object) -> None:
    with pytest.raises(BadSample) as refused:
        FOUR.of(value)
    document = refused.value.document()
    assert document["status"] == 400
    assert document["expected"] == {"shape": [4], "dtype": "float32"}


@pytest.mark.usefixtures("converter")
@pytest.mark.parametrize("value", [[1, True], [1.5, False], [[1, 2], [3, True]], [[[1.0, True]]], (1, (2, True)), True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, None])
def test_true_among_numbers_is_not_1(value: object, dtype: torch.dtype | None) -> None:
    with pytest.raises(BadSample) as refused:
        NetworkInput(None, dtype).of(value)
    assert refused.value.status == 400
    assert NetworkInput(None, torch.bool).of([True, False]).tolist() == [True, False]


def test_a_refusal_names_the_shape_that_came() -> None:
    with pytest.raises(BadSample) as refused:
        FOUR.of([1, 2, 3])
    assert refused.value.document()["got"] == {"shape": [3]}
    assert "shape [3], the model takes [4]" in refused.value.detail


def test_a_free_size_takes_any_length_and_its_neighbour_does_not() -> None:
    rows = NetworkInput([None, 2], torch.float32)
    assert rows.of([[1, 2], [3, 4], [5, 6]]).shape == (3, 2)
    with pytest.raises(BadSample):
        rows.of([[1, 2, 3]])


@pytest.mark.parametrize(
    ("dtype", "value"), [(torch.int64, [1.5]), (torch.uint8, [300]), (torch.uint8, [-1]), (torch.int64, [2**70])]
)
def test_numbers_that_an_integer_dtype_cannot_hold_are_refused(dtype: torch.dtype, value: object) -> None:
    with pytest.raises(BadSample):
        NetworkInput(None, dtype).of(value)


def test_whole_floats_are_integers() -> None:
    assert NetworkInput(None, torch.int64).of([1.0, 2.0]).tolist() == [1, 2]


def test_several_inputs_stay_several() -> None:
    anything = NetworkInput(None, torch.float32)
    first, second = anything.of((torch.tensor([1]), torch.tensor([2.0])))
    assert (first.dtype, second.dtype) == (torch.float32, torch.float32)
    named = NetworkInput(None, None).of({"ids": torch.tensor([1]), "mask": [1, 0]})
    assert (named["ids"].dtype, named["mask"].tolist()) == (torch.int64, [1, 0])


def test_numpy_arrays_of_any_order_and_kind_are_taken() -> None:
    array = np.arange(6, dtype=np.uint16).reshape(2, 3).T
    assert NetworkInput([3, 2], torch.float32).of(array).tolist() == [[0, 3], [1, 4], [2, 5]]
    frozen = np.zeros(4, dtype=np.float32)
    frozen.setflags(write=False)
    assert FOUR.of(frozen).shape == (4,)


def test_the_dtype_is_the_networks_own_unless_it_looks_things_up() -> None:
    assert tensors.own_dtype(nn.Linear(2, 2)) == torch.float32
    assert tensors.own_dtype(nn.Linear(2, 2).half()) == torch.float16
    assert tensors.own_dtype(nn.Sequential(nn.Embedding(3, 2), nn.Linear(2, 2))) is None
    assert tensors.own_dtype(nn.ReLU()) is None


_ANY: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=10,
)


@given(_ANY, st.sampled_from([torch.float32, torch.float16, torch.int64, torch.uint8, None]))
def test_any_json_value_is_finite_numbers_or_a_refusal(value: Any, dtype: torch.dtype | None) -> None:
    try:
        got = NetworkInput(None, dtype).of(value)
    except BadSample:
        return
    assert got.dtype == dtype or dtype is None
    assert bool(got.isfinite().all())


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=20))
def test_float32_numbers_arrive_exactly(numbers: list[float]) -> None:
    assert NetworkInput(None, torch.float32).of(numbers).tolist() == numbers


@pytest.mark.parametrize("shape", [None, [4], [2, 3, 4]])
def test_millions_of_small_lists_are_refused_before_they_are_converted(
    shape: list[int | None] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensors, "_by_numpy", lambda *_: pytest.fail("converted"))
    for value in ([[1]] * 300_000, [[[[[[[1]]]]]]] * 50_000, [[[1]] * 100_000, [[1]] * 200_000]):
        with pytest.raises(BadSample, match="more than 300000 lists") as refused:
            NetworkInput(shape, torch.float32).of(value)
        assert refused.value.status == 413


def test_as_many_lists_as_the_declared_shape_has_are_taken() -> None:
    shape: list[int | None] = [400_000, 1]
    assert NetworkInput(shape, torch.float32).of([[1]] * 400_000).shape == (400_000, 1)
