"""text-classifier: a text in; the likeliest class and its confidence out. The tokeniser is the author's, or a list of words."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from torchrelay_handlers.bodies.tensors import NetworkInput
from torchrelay_handlers.problems import BadSample
from torchrelay_handlers.recipes import vocabulary
from torchrelay_handlers.recipes.classes import CONCLUSIONS, Classes, read_classes
from torchrelay_handlers.steps import Steps

_FIELDS = ("text", "data", "input_data")


class TextClassifierRecipe:
    """int64 [N, tokens] (or named inputs of that shape) -> [N, classes]."""

    name = "text-classifier"

    def steps(self, options: Mapping[str, Any], model_dir: Path, dtype: torch.dtype | None) -> Steps:  # noqa: ARG002 - Recipe's signature
        """See Recipe."""
        texts = Texts(
            vocabulary.tokenizer_of(options, model_dir), options["max_tokens"], options["too_long"], options["max_characters"]
        )
        classifier = Classes(read_classes(options["classes"], model_dir), options["top_k"])
        return Steps(
            texts,
            classifier,
            NetworkInput(None, torch.int64),
            conclude=CONCLUSIONS[options["activation"]],
            expand=_several,
            example=texts(options["example"]),
            check_example=classifier.check,
            takes=("text/",),
        )


RECIPE = TextClassifierRecipe()


class Texts:
    """Makes int64 [tokens] from a text, or a dict of them when the tokeniser names its outputs (input_ids, attention_mask)."""

    def __init__(self, tokenize: Callable[[str], Any], max_tokens: int, too_long: str, max_characters: int) -> None:
        self.tokenize = tokenize
        self.max_tokens = max_tokens
        self.too_long = too_long
        self.max_characters = max_characters

    def __call__(self, value: object) -> Any:
        """See the class."""
        text = _text(value)
        if len(text) > self.max_characters:
            raise BadSample(
                f"the text has {len(text)} characters",
                expected={"max_characters": self.max_characters},
                status=413,
                kind="text-too-long",
            )
        tokens = self.tokenize(text)
        if isinstance(tokens, Mapping):
            return {str(name): self._ids(ids) for name, ids in tokens.items()}
        return self._ids(tokens)

    def _ids(self, tokens: Any) -> torch.Tensor:
        ids = torch.as_tensor(tokens, dtype=torch.int64)
        if ids.dim() != 1:
            raise TypeError(f"the tokeniser must return a list of ids, or a dict of lists, for one text, not {list(ids.shape)}")
        if not len(ids):
            raise BadSample("the text contains nothing to classify", kind="empty-text")
        if len(ids) > self.max_tokens and self.too_long == "refuse":
            raise BadSample(
                f"the text has {len(ids)} tokens", expected={"max_tokens": self.max_tokens}, status=413, kind="text-too-long"
            )
        return ids[: self.max_tokens]


def _text(value: object) -> str:
    if isinstance(value, dict):
        named = [value[name] for name in _FIELDS if name in value]
        value = named[0] if len(named) == 1 == len(value) else None
    if isinstance(value, bytes | bytearray):
        try:
            value = bytes(value).decode()
        except UnicodeDecodeError:
            value = None
    if not isinstance(value, str):
        raise BadSample(
            "the body must be a text: text/plain, a JSON string, or JSON with one", expected={"text": "..."}, kind="bad-text"
        )
    return value


def _several(value: object) -> list[object] | None:
    """The texts of a JSON list of texts, or of objects with one."""
    return value if isinstance(value, list) and value and all(isinstance(item, str | dict) for item in value) else None
