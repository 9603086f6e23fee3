"""Any text in model.yaml or a sample gives a model, or ModelInvalid with printable problems."""

import json
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.model_dirs import GOOD_YAML, write
from torchrelay.core.errors import ModelInvalid
from torchrelay.model.model import Model, load_model
from torchrelay.model.samples import load_samples
from torchrelay.stages import check

SETTINGS = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])

KEYS = st.sampled_from([*Model.model_fields, "uri", "size", "port", "docker", "<<", "é", ""])
SCALARS = st.one_of(
    st.sampled_from(
        [
            "",
            "~",
            "no",
            "1.10",
            "010",
            "1e400",
            ".nan",
            "-1",
            "*a",
            "&a x",
            "!!str 1",
            "|",
            "- x",
            "'",
            '"\\0"',
            "s3://b/k",
            "../x",
            "\t",
            "\u2028",
        ]
    ),
    st.text(max_size=20),
    st.integers().map(str),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda items: "[" + ", ".join(items) + "]"),
        st.lists(st.tuples(KEYS, inner), max_size=3).map(lambda pairs: "{" + ", ".join(f"{k}: {v}" for k, v in pairs) + "}"),
    ),
    max_leaves=6,
)
DOCUMENTS = st.lists(st.tuples(KEYS, VALUES), max_size=8).map(lambda pairs: "".join(f"{k}: {v}\n" for k, v in pairs))


def assert_printable(error: ModelInvalid | None) -> None:
    assert error is None or error.problems
    assert error is None or all(str(problem).isprintable() for problem in error.problems), str(error)


def assert_model_or_problems(data: bytes) -> None:
    caught = None
    with tempfile.TemporaryDirectory() as scratch:
        folder = write(Path(scratch), {"model.yaml": data})
        try:
            load_model(folder)
            check.run(folder)
        except ModelInvalid as error:
            caught = error
    assert_printable(caught)


@SETTINGS
@given(st.one_of(st.binary(max_size=200), st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass"))))
def test_any_bytes(data: bytes) -> None:
    assert_model_or_problems(data)


@SETTINGS
@given(DOCUMENTS, st.booleans())
def test_any_values_of_known_keys(text: str, after_good: bool) -> None:
    assert_model_or_problems(((GOOD_YAML if after_good else "") + text).encode("utf-8", "surrogatepass"))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["json", "body", "status", "compare", "k", "text", "x"]), inner, max_size=4)
    ),
    max_leaves=8,
)


@SETTINGS
@given(JSON, JSON, JSON)
def test_any_sample(request: object, expect: object, latency: object) -> None:
    text = json.dumps({"request": request, "expect": expect, "latency_ms": latency})
    caught = None
    with tempfile.TemporaryDirectory() as scratch:
        folder = write(Path(scratch), {"samples/one.json": text.encode("utf-8", "surrogatepass")})
        try:
            load_samples(folder, load_model(folder))
        except ModelInvalid as error:
            caught = error
    assert_printable(caught)
