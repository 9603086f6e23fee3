"""Answers are JSON that any parser reads."""

import json
import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from torchrelay_handlers.bodies import json_out


@pytest.fixture(params=["orjson", "standard library"], autouse=True, scope="module")
def encoder(request: pytest.FixtureRequest) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:
        if request.param == "standard library":
            patched.setattr(json_out, "orjson", None)
        yield


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"a": torch.tensor([1.5, 2.0])}, '{"a":[1.5,2.0]}'),
        (torch.tensor(3), "3"),
        (np.float32(0.5), "0.5"),
        (np.arange(3), "[0,1,2]"),
        ((1, "x", None), '[1,"x",null]'),
        ({1: 2}, '{"1":2}'),
        (2**70, "1180591620717411303424"),
        ({"b", "a"}, '["a","b"]'),
        ([1.0, math.nan, math.inf, {"x": -math.inf}], '[1.0,null,null,{"x":null}]'),
        (torch.tensor([math.nan, 1.0]), "[null,1.0]"),
    ],
)
def test_values_that_handlers_return_have_a_json_form(value: object, text: str) -> None:
    assert json_out.encode(value) == text.encode()


@pytest.mark.parametrize("value", [math.nan, [1, math.inf], {"x": torch.tensor([math.nan])}])
def test_nan_is_refused_if_that_is_set(value: object) -> None:
    with pytest.raises(json_out.NotFinite):
        json_out.encode(value, refuse_nan=True)
    assert json_out.encode([1.5], refuse_nan=True) == b"[1.5]"


@pytest.mark.parametrize("value", [object(), b"bytes", {"x": object()}, 1j])
def test_a_value_without_a_json_form_is_reported(value: object) -> None:
    with pytest.raises(TypeError):
        json_out.encode(value)


@given(st.recursive(st.floats() | st.integers() | st.text(max_size=5), lambda inner: st.lists(inner, max_size=4), max_leaves=8))
def test_any_number_or_text_is_written_as_valid_json(value: object) -> None:
    json.loads(json_out.encode(value), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
