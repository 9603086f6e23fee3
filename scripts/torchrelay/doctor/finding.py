"""The input and output types of doctor's checks."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torchrelay.core.text import printable
from torchrelay.model.model import Model


@dataclass(frozen=True)
class Finding:
    """One result of a check: `detail` describes it; `fix` says what to do if it is not `ok`."""

    name: str
    ok: bool
    detail: str
    fix: str = ""

    def summary(self) -> dict[str, Any]:
        """Return the finding as the CLI prints it."""
        return asdict(self)


@dataclass(frozen=True)
class DoctorOptions:
    """The options of `torchrelay doctor`; empty text means absent."""

    model_dir: Path
    target: str | None = None
    repository: str = ""
    aws_role: str = ""
    aws_region: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Subject:
    """What is checked: the options, the model (None if it is invalid) and the target that relay would use ("" if there is none).

    `mistakes` are the keys of model.yaml that are wrong; in the model they are placeholders.
    """

    options: DoctorOptions
    model: Model | None
    target: str
    mistakes: frozenset[str] = frozenset()


CheckFunction = Callable[[Subject], Finding | Iterable[Finding] | None]
"""Returns one finding or several, or None if the check does not apply. A TorchrelayError that it raises becomes its finding."""


def good(name: str, detail: str) -> Finding:
    """Return a finding without a problem."""
    return Finding(name, True, printable(detail, 400))


def bad(name: str, detail: str, fix: str) -> Finding:
    """Return a finding with a problem."""
    return Finding(name, False, printable(detail, 400), fix)
