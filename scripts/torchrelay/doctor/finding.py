"""What a check of `doctor` takes and returns."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torchrelay.core.text import printable
from torchrelay.model.model import Model


@dataclass(frozen=True)
class Check:
    """One finding: `detail` says what was seen, `fix` the line that mends it when it is not `ok`."""

    name: str
    ok: bool
    detail: str
    fix: str = ""

    def summary(self) -> dict[str, Any]:
        """Return what the CLI prints."""
        return asdict(self)


@dataclass(frozen=True)
class Asked:
    """What is to be examined: empty text is absent."""

    model_dir: Path
    target: str | None = None
    repository: str = ""
    aws_role: str = ""
    aws_region: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Subject:
    """`Asked` with the model read, and the target chosen as relay chooses it; empty when there is none."""

    asked: Asked
    model: Model | None
    target: str


Probe = Callable[[Subject], Check | Iterable[Check] | None]
"""A check: finds one thing or several, or None where it does not apply. A TorchrelayError that it raises is its finding."""


def good(name: str, detail: str) -> Check:
    """Return a finding that is well."""
    return Check(name, True, printable(detail, 400))


def bad(name: str, detail: str, fix: str) -> Check:
    """Return a finding that is not."""
    return Check(name, False, printable(detail, 400), fix)
