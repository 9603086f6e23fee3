"""Reads pip's output."""

import re


def pip_reason(output: str) -> str:
    """Return pip's own explanation of its failure, in a line or two."""
    errors = [line.strip() for line in output.splitlines() if re.match(r"\s*ERROR:", line)]
    return " ".join(errors[:3])[:600] or " ".join(output.strip().splitlines()[-3:])[:600]
