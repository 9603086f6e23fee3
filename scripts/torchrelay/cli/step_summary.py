"""The summary of the step on GitHub: the file that GITHUB_STEP_SUMMARY names."""

import os
from pathlib import Path

from torchrelay.workflow.summary import STEP_LIMIT


def room() -> int:
    """Return how many bytes still fit into the step's summary."""
    file = os.environ.get("GITHUB_STEP_SUMMARY")
    used = Path(file).stat().st_size if file and Path(file).is_file() else 0
    return max(STEP_LIMIT - used, 1000)


def append(text: str) -> bool:
    """Append to the step's summary; False where there is none."""
    file = os.environ.get("GITHUB_STEP_SUMMARY")
    if not file:
        return False
    with Path(file).open("a", encoding="utf-8", errors="backslashreplace", newline="") as opened:
        opened.write(text)
    return True
