"""Reads pip's output."""

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass


def pip_reason(output: str) -> str:
    """Return pip's own words for why it failed, in a line or two."""
    errors = [line.strip() for line in output.splitlines() if re.match(r"\s*ERROR:", line)]
    return " ".join(errors[:3])[:600] or " ".join(output.strip().splitlines()[-3:])[:600]
