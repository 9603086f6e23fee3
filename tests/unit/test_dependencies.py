"""A container that installs is followed to its end, and no longer than it may take."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from torchrelay.core.errors import DependenciesUnresolved
from torchrelay.image.dependencies import run_to_end

MOST_S = 20.0


class Installing:
    """Stands in for docker's container: its log goes on until it ends by itself, or is killed."""

    def __init__(self, *, ends: bool, code: int = 0) -> None:
        self.over = threading.Event()
        self.code = code
        if ends:
            self.over.set()

    def logs(self, **_: Any) -> Iterator[bytes]:
        yield b"Collecting torch\n"
        assert self.over.wait(MOST_S), "nobody killed it"
        yield b"done"

    def kill(self) -> None:
        self.code = 137
        self.over.set()

    def wait(self, **_: Any) -> dict[str, int]:
        return {"StatusCode": self.code}


def test_one_that_never_ends_is_killed() -> None:
    container: Any = Installing(ends=False)
    with pytest.raises(DependenciesUnresolved, match="setup did not end within 0 s and was stopped: Collecting torch"):
        run_to_end(container, 0.05, "setup")
    assert container.code == 137


@pytest.mark.parametrize("code", [0, 1])
def test_control_a_process_that_ends_is_not_killed(code: int) -> None:
    container: Any = Installing(ends=True, code=code)
    assert run_to_end(container, MOST_S, "setup") == (code, "Collecting torch\ndone")
