"""The step before all others: loads nothing, so that its answer says only what this machine can take away from a process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path


def step(_request: dict[str, Any], _scratch: Path) -> dict[str, Any]:
    """Return nothing: `main` adds what it took away."""
    return {}
