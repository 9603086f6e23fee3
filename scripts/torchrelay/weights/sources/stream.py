"""The interface of a source of weights: an open stream, or an error that says whether another attempt can help."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from torchrelay.core.retry import RetryLater

BLOCK = 1 << 20
RETRIED_STATUSES = {408, 425, 429, 500, 502, 503, 504}


class Transient(RetryLater):
    """Another attempt may help. `restart` says that the part on disk cannot be continued."""

    def __init__(self, reason: str, retry_after_s: float | None = None, *, restart: bool = False) -> None:
        super().__init__(reason, retry_after_s)
        self.restart = restart


@dataclass(frozen=True)
class Stream:
    """An open response. `start` is the offset of its first byte: 0 when the source does not or must not resume."""

    blocks: Iterator[bytes]
    start: int
    total: int | None
    """Bytes of the whole file, None when the source does not say."""
    version: str
    """The source's name for this state of the file, for people: an ETag, an S3 version, a Hugging Face commit."""
    validator: str
    """Sent to resume exactly this state; empty when the source cannot resume it."""
    sha256: str = ""
    """The digest that the source itself promises; empty when it promises none."""


class WeightsSource(Protocol):
    """A module per URI scheme; `sources.SOURCES` is the registry."""

    def basename(self, uri: str) -> str:
        """Return the file's name, without folders.

        Raises WeightsMissing when the URI is malformed.
        """

    def open_stream(self, uri: str, start: int, validator: str) -> AbstractContextManager[Stream]:
        """Open the file from byte `start` when it is still in the state that `validator` names, otherwise from 0.

        Raises Transient when another attempt may help, WeightsMissing when it cannot.
        """
