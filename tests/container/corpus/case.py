"""One request of a corpus, and what is expected of its answer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

JSON = "application/json"
Wanted = Literal["refused", "answered", "either"]


@dataclass(frozen=True)
class Case:
    """`refused`: 4xx, whose detail (with what was expected) matches `says`. `answered`: odd, but legal. `either`: not a 5xx."""

    id: str
    body: bytes
    content_type: str
    headers: tuple[tuple[str, str], ...] = ()
    wanted: Wanted = "refused"
    says: str = "."

    @property
    def sent(self) -> tuple[bytes, str, tuple[tuple[str, str], ...]]:
        """The parts by which requests differ."""
        return (self.body, self.content_type, self.headers)


def cases(
    prefix: str, bodies: Iterable[tuple[str, bytes | str]], content_type: str = JSON, says: str = ".", wanted: Wanted = "refused"
) -> list[Case]:
    """Cases of one kind; text is sent as UTF-8."""
    pairs = [(name, body.encode("utf-8", "surrogatepass") if isinstance(body, str) else body) for name, body in bodies]
    return [Case(f"{prefix}: {name}", body, content_type, wanted=wanted, says=says) for name, body in pairs]


def bad(corpus: Iterable[Case]) -> int:
    """How many different requests of a corpus have to be refused."""
    return len({case.sent for case in corpus if case.wanted == "refused"})
