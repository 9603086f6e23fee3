"""A container that installs is followed to its end, and no longer than it may take."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from torchrelay.core.errors import DependenciesUnresolved, InputsInvalid
from torchrelay.image.install_container import LAST_LINES, InstallSettings, container_settings, follow_log, run_to_end

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
    with pytest.raises(DependenciesUnresolved, match="setup did not end within 1 s and was stopped: Collecting torch"):
        run_to_end(container, 0.05, "setup")
    assert container.code == 137


@pytest.mark.parametrize("code", [0, 1])
def test_control_a_process_that_ends_is_not_killed(code: int) -> None:
    container: Any = Installing(ends=True, code=code)
    assert run_to_end(container, MOST_S, "setup") == (code, "Collecting torch\ndone")


def test_an_endless_line_and_endless_lines_do_not_fill_the_memory() -> None:
    class Loud:
        def logs(self, **_: Any) -> Iterator[bytes]:
            yield from [b"x" * 10_000] * 100
            yield from [b"\nline"] * (2 * LAST_LINES)

    container: Any = Loud()
    output = follow_log(container)
    assert len(output.split("\n")) <= LAST_LINES + 1
    assert max(map(len, output.split("\n"))) <= 4096


def test_the_container_has_limits_and_no_capabilities(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("MEMORY", "512Mi"), ("PIDS", "99"), ("TIMEOUT_S", "5"), ("LAYER", "1Gi")):
        monkeypatch.setenv(f"TORCHRELAY_INSTALL_{name}", value)
    settings = container_settings(InstallSettings.read(), "script", {"A": "b"})
    assert settings == {
        "entrypoint": ["timeout", "--kill-after=10", "65", "/bin/sh", "-c", "script"],
        "user": "0",
        "environment": {"A": "b"},
        "healthcheck": {"test": ["NONE"]},
        "cap_drop": ["ALL"],
        "cap_add": [],
        "security_opt": ["no-new-privileges"],
        "pids_limit": 99,
        "mem_limit": 512 << 20,
        "memswap_limit": 512 << 20,
    }
    assert InstallSettings.read().install_layer == 1 << 30
    monkeypatch.setenv("TORCHRELAY_INSTALL_MEMORY", "lots")
    with pytest.raises(InputsInvalid, match="TORCHRELAY_INSTALL_MEMORY"):
        InstallSettings.read()
