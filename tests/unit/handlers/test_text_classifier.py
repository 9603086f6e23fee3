"""text-classifier: texts through the author's tokeniser, or a file of tokens, to a class and a confidence."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.unit.handlers.support import JSON, differences
from torchrelay_handlers import Handler, shipped
from torchrelay_handlers.recipes.vocabulary import Vocabulary, read_vocabulary

TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "good", "bad", "play", "##ing", "##ed", ",", "a"]


class Mood(nn.Module):
    """int64 [N, T] -> [N, 2]: how many `good` and how many `bad`."""

    def forward(self, ids: Tensor) -> Tensor:
        return torch.stack([(ids == 4).sum(1), (ids == 5).sum(1)], 1).float() * 3


@pytest.fixture(autouse=True)
def clean_imports() -> Iterator[None]:
    modules, path = set(sys.modules), list(sys.path)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        del sys.modules[name]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "vocab.txt").write_text("\n".join(TOKENS))
    (tmp_path / "their_tokenizer.py").write_text(
        "def tokenize(text): return [4 if w == 'good' else 5 for w in text.split()]\n"
        "def named(text): return {'ids': tokenize(text), 'mask': [1] * len(text.split())}\n"
        "def batched(text): return [[1, 2]]\n"
    )
    return tmp_path


def classifier(folder: Path, network: type[nn.Module] = Mood, **options: Any) -> Handler:
    all_options = {"classes": ["happy", "sad"], "vocab": "vocab.txt"} | options
    return shipped.make("text-classifier", network, {k: v for k, v in all_options.items() if v is not None}).load(
        None, model_dir=folder
    )


def test_a_text_is_read_from_any_form_that_holds_one(folder: Path) -> None:
    handler = classifier(folder)
    plain = handler.predict([b"Good, good"], "text/plain") + handler.predict([b"good good"], "application/octet-stream")
    bodies: list[Any] = ["good good", {"text": "good good"}, {"data": "good good"}]
    answers = plain + handler.predict([json.dumps(body).encode() for body in bodies], JSON)
    assert [answer.status for answer in answers] == [200] * 5
    assert answers[0].json() == {"class": "happy", "confidence": pytest.approx(0.9975, abs=1e-4)}
    assert len({answer.body for answer in answers}) == 1
    several = handler.predict([b'["good", "bad"]', b'{"instances": ["bad", {"text": "good"}]}'], JSON)
    assert [item["class"] for item in several[0].json()] == ["happy", "sad"]  # type: ignore[attr-defined] # JSON's type is not known
    assert [item["class"] for item in several[1].json()["predictions"]] == ["sad", "happy"]  # type: ignore[index] # JSON's type is not known


@pytest.mark.parametrize(
    "body", [b"{}", b"3", b"null", b'{"text": 3}', b'{"text": "a", "more": 1}', b'""', b'" "', b"[]", b"[3]", b'[""]']
)
def test_a_body_without_text_is_refused(folder: Path, body: bytes) -> None:
    bad, good = classifier(folder).predict([body, b'"good"'], JSON)
    assert (bad.status, good.status) == (400, 200)


def test_the_tokeniser_is_the_authors_choice(folder: Path) -> None:
    class Named(nn.Module):
        def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
            out: Tensor = Mood()(ids * mask)
            return out

    mine = classifier(folder, vocab=None, tokenizer="their_tokenizer.py", example="good bad")
    named = classifier(folder, Named, vocab=None, tokenizer="their_tokenizer.py", tokenizer_function="named", example="bad")
    for handler in (mine, named):
        assert [a.json()["class"] for a in handler.predict([b"bad bad good", b"good"], "text/plain")] == ["sad", "happy"]  # type: ignore[index] # JSON's type is not known


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vocab": None}, "either tokenizer"),
        ({"tokenizer": "their_tokenizer.py"}, "either tokenizer"),
        ({"vocab": "none.txt"}, r"handler_args\.vocab: none\.txt cannot be read"),
        ({"vocab": None, "tokenizer": "their_tokenizer.py", "tokenizer_function": "tokenise"}, "no function 'tokenise'"),
        ({"vocab": None, "tokenizer": "absent.py"}, "absent.py is not in the model's folder"),
        ({"vocab": None, "tokenizer": "their_tokenizer.py", "tokenizer_function": "batched"}, "list of ids"),
        ({"first": "[BOS]"}, r"does not list '\[BOS\]'"),
        ({"classes": ["only one"]}, "has 2 classes"),
        ({"tokenizer": "bert"}, "must be a Python file"),
    ],
)
def test_a_model_that_cannot_serve_does_not_start(folder: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, RuntimeError, TypeError), match=message):
        classifier(folder, **options)


def test_long_texts_are_cut_or_refused(folder: Path) -> None:
    body = b"good " * 5 + b"bad " * 50
    cut = classifier(folder, max_tokens=5).predict([body], "text/plain")[0]
    assert cut.json()["class"] == "happy"  # type: ignore[index] # JSON's type is not known
    assert classifier(folder, max_tokens=5, too_long="refuse").predict([body], "text/plain")[0].status == 413
    assert classifier(folder, max_characters=99).predict([body], "text/plain")[0].status == 413


@pytest.mark.parametrize(
    ("options", "text", "ids"),
    [
        ({}, "Good, play", [4, 9, 6]),
        ({}, "unheard of good", [1, 1, 4]),
        ({"unknown": "[NONE]"}, "unheard of good", [4]),
        ({"lowercase": False}, "Good good", [1, 4]),
        ({"split": "wordpiece"}, "playing played plays", [6, 7, 6, 8, 1]),
        ({"split": "wordpiece", "first": "[CLS]", "last": "[SEP]"}, "good", [2, 4, 3]),
        ({"split": "wordpiece"}, "a" * 101, [1]),
        ({"split": "characters"}, "a,b", [10, 9, 1]),
        ({}, "", []),
    ],
)
def test_a_vocabulary_splits_and_looks_up(options: dict[str, Any], text: str, ids: list[int]) -> None:
    assert Vocabulary({token: place for place, token in enumerate(TOKENS)}, **options)(text) == ids


def test_a_word_of_many_pieces_is_unknown() -> None:
    tokens = Vocabulary({"x": 0, "##x": 1, "[UNK]": 2}, split="wordpiece")
    assert tokens("x" * 100) == [0] + [1] * 99
    assert tokens("x" * 101) == [2]


@given(st.text(max_size=60), st.sampled_from(["words", "wordpiece", "characters"]))
def test_any_text_becomes_known_ids(text: str, split: str) -> None:
    ids = Vocabulary({token: place for place, token in enumerate(TOKENS)}, split=split)(text)
    assert all(0 <= token < len(TOKENS) for token in ids)


@pytest.mark.parametrize("text", ['{"a": 0, "b": 1}', '["a", "b"]'])
def test_a_vocabulary_may_be_json(tmp_path: Path, text: str) -> None:
    (tmp_path / "v.json").write_text(text)
    assert read_vocabulary("v.json", tmp_path) == {"a": 0, "b": 1}


@pytest.mark.parametrize("text", ["{", "[1]", '{"a": "0"}', '{"a": -1}', "[]", "3", '{"a": true}'])
def test_a_wrong_vocabulary_is_reported(tmp_path: Path, text: str) -> None:
    (tmp_path / "v.json").write_text(text)
    with pytest.raises(ValueError, match=r"handler_args\.vocab"):
        read_vocabulary("v.json", tmp_path)


@pytest.mark.parametrize("pad", [None, 0])
def test_answers_do_not_depend_on_neighbours(folder: Path, pad: int | None) -> None:
    handler = classifier(folder, pad=pad)
    bodies = [" ".join(["good", "bad", "a"][(n * k) % 3] for k in range(1 + n % 5)).encode() for n in range(20)]
    bodies += [b"\xff", b"", b" "]

    def serve(some: list[bytes]) -> list[tuple[int, bytes]]:
        return [(answer.status, answer.body) for answer in handler.predict(some, "text/plain")]

    assert differences(serve, bodies) == []
