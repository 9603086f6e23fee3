"""The contract of a server that the runtime can run: a module `<server>/server.py` with these functions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

from torchrelay_runtime.limits import Limits
from torchrelay_runtime.readiness import Answer, Workers
from torchrelay_runtime.settings import Settings


@dataclass(frozen=True)
class Launch:
    """A command to run in the foreground: it ends when the server ends, with the server's exit code."""

    argv: list[str]
    env: dict[str, str]
    cwd: Path


@dataclass(frozen=True)
class Upstream:
    """Where the server listens (`host:port`), and the path of each version that the front forwards to, the default first.

    `neutral`: bodies reach the server under one content type that it does not parse; the handlers read the client's own elsewhere.
    """

    inference: str
    predict_paths: Mapping[str, str]
    metrics: str
    metrics_path: str
    neutral: bool = False


class Server(Protocol):
    """The module's functions."""

    def upstream(self, settings: Settings) -> Upstream:
        """Where the front finds the server."""

    def body_budget(self, settings: Settings, limits: Limits) -> int:
        """How many bytes of request bodies the server can hold at one time. Raises: SettingsError when not even one fits."""

    def prepare(self, settings: Settings, limits: Limits, env: dict[str, str]) -> Launch:
        """Write the configuration below `settings.state`, return the command. Raises: SettingsError when it cannot run here."""

    def workers(self, settings: Settings) -> Workers | None:
        """The workers' state, None while the server does not answer."""

    def predict(self, settings: Settings) -> Answer:
        """Send the warm-up request straight to the server."""


def load_server(name: str) -> Server:
    """Return the adapter of the server `name`, which `settings` has checked."""
    return cast("Server", import_module(f"torchrelay_runtime.{name}.server"))
