"""Checks an error by its kind, its place and the data that it names; the words themselves are in `tests/messages.py`."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import pytest

from torchrelay.core.errors import TorchrelayError

E = TypeVar("E", bound=TorchrelayError)


@contextmanager
def fails(
    error: type[E], *names: object, field: str | None = None, line: int | None = None, words: str = ""
) -> Iterator[pytest.ExceptionInfo[E]]:
    """The block must raise an error of exactly this kind, whose text contains `names` (paths, keys, digests) and `words`.

    With `field` or `line`, one and the same problem of the error must have both.
    """
    with pytest.raises(error) as caught:
        yield caught
    assert caught.value.kind == error.kind
    text = str(caught.value)
    missing = [str(part) for part in (*names, words) if str(part) not in text]
    assert not missing, f"{missing} not in: {text}"
    if field is not None or line is not None:
        places = [(problem.field, problem.line) for problem in getattr(caught.value, "problems", ())]
        assert any(field in (None, has) and line in (None, at) for has, at in places), places
