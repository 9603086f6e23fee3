"""What a source of weights gives: an open stream, or an error that says whether trying again can help."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

BLOCK = 1 << 20


class Transient(Exception):
    """Trying again may help; `retry_after` is the wait in seconds that the server asks for, if it does.

    `restart` says that the part already here is of no use.
    """

    def __init__(self, message: str, retry_after: float | None = None, *, restart: bool = False) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.restart = restart


@dataclass(frozen=True)
class Stream:
    """An open answer. `start` is the offset of its first byte: 0 when the source would not, or must not, resume."""

    blocks: Iterator[bytes]
    start: int
    total: int | None
    """Bytes of the whole file, None when the source does not say."""
    version: str
    """What the source calls this state of the file, for people: an ETag, an S3 version, a Hugging Face commit."""
    validator: str
    """What to present to resume exactly this state; empty when that is not possible."""
    sha256: str = ""
    """The digest that the source itself promises, if it does."""


class Source(Protocol):
    """A module per URI scheme; `sources.SOURCES` is the registry."""

    def basename(self, uri: str) -> str:
        """Return the file's name, without folders.

        Raises WeightsMissing when the URI is malformed.
        """

    def open_stream(self, uri: str, start: int, validator: str) -> AbstractContextManager[Stream]:
        """Open the file from byte `start` when it is still in the state that `validator` names, else from 0.

        Raises Transient when another try may help, WeightsMissing when it cannot.
        """
