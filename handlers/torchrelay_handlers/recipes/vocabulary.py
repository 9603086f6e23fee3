"""Turns texts into numbers, by the author's tokeniser function or a file of words or word pieces."""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torchrelay_handlers.model_files import import_file
from torchrelay_handlers.recipes.classnames import lines_of

_WORDS = re.compile(r"\w+|[^\w\s]")
_LONGEST_WORD = 100  # characters; longer ones are unknown, as in BERT's own tokeniser: its search is quadratic in them


def tokenizer_of(options: Mapping[str, Any], model_dir: Path) -> Callable[[str], Any]:
    """The tokeniser by the options tokenizer, tokenizer_function, vocab, split, lowercase, unknown, first and last.

    Raises:
        ValueError: there is neither a tokeniser nor a vocabulary, or both, or one cannot be used.
    """
    file, vocab = options["tokenizer"], options["vocab"]
    if (file is None) == (vocab is None):
        raise ValueError("handler_args: give either tokenizer (a Python file) or vocab (a file of tokens)")
    if file is not None:
        name = options["tokenizer_function"]
        function = getattr(import_file(model_dir, file), name, None)
        if not callable(function):
            raise ValueError(f"handler_args.tokenizer: {file} has no function {name!r}; name it with tokenizer_function")
        return function  # type: ignore[no-any-return] # the author's: what it returns is checked
    return Vocabulary(
        read_vocabulary(str(vocab), model_dir),
        split=options["split"],
        lowercase=options["lowercase"],
        unknown=options["unknown"],
        first=options["first"],
        last=options["last"],
    )


def read_vocabulary(file: str, model_dir: Path) -> dict[str, int]:
    """Token -> id: one token a line (the first line is 0), or a JSON list, or a JSON object of ids.

    Raises:
        ValueError: the file is missing or holds something else.
    """
    path = model_dir / file
    try:
        text = path.read_text(encoding="utf-8-sig")
        tokens = json.loads(text) if path.suffix == ".json" else lines_of(text)
    except (OSError, ValueError) as error:
        raise ValueError(f"handler_args.vocab: {file} cannot be read: {error}") from None
    ids = {token: place for place, token in enumerate(tokens)} if isinstance(tokens, list) else tokens
    if not isinstance(ids, dict) or not ids or not all(isinstance(k, str) and type(v) is int and v >= 0 for k, v in ids.items()):
        raise ValueError(f"handler_args.vocab: {file} is neither a list of tokens nor an object of their ids")
    return ids


class Vocabulary:
    """Splits a text into words and punctuation (`words`), those into pieces (`wordpiece`), or into `characters`; looks each up.

    A token that is not listed is `unknown`, or left out when that is not listed either. `first` and `last` frame the text.
    """

    def __init__(
        self,
        ids: dict[str, int],
        *,
        split: str = "words",
        lowercase: bool = True,
        unknown: str = "[UNK]",
        first: str | None = None,
        last: str | None = None,
    ) -> None:
        missing = [token for token in (first, last) if token is not None and token not in ids]
        if missing:
            raise ValueError(f"handler_args.vocab: the file does not list {missing[0]!r}")
        self.ids = ids
        self.split = split
        self.lowercase = lowercase
        self.unknown = ids.get(unknown)
        self.first = [] if first is None else [ids[first]]
        self.last = [] if last is None else [ids[last]]

    def __call__(self, text: str) -> list[int]:
        """The ids of a text's tokens."""
        text = text.lower() if self.lowercase else text
        if self.split == "characters":
            tokens: list[int | None] = [self.ids.get(character, self.unknown) for character in text]
        elif self.split == "words":
            tokens = [self.ids.get(word, self.unknown) for word in _WORDS.findall(text)]
        else:
            tokens = [piece for word in _WORDS.findall(text) for piece in self._pieces(word)]
        return self.first + [token for token in tokens if token is not None] + self.last

    def _pieces(self, word: str) -> list[int | None]:
        """The longest listed piece, then the longest of the rest (`##` before it), and so on."""
        pieces: list[int | None] = []
        at = 0
        while at < len(word) <= _LONGEST_WORD:
            prefix = "##" if at else ""
            end = next((end for end in range(len(word), at, -1) if prefix + word[at:end] in self.ids), None)
            if end is None:
                return [self.unknown]
            pieces.append(self.ids[prefix + word[at:end]])
            at = end
        return pieces or [self.unknown]
