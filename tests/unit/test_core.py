"""Locks and untrusted JSON; git and locks are each written once, in core."""

import os
import re
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from torchrelay.core.errors import Busy
from torchrelay.core.json_text import parse_untrusted
from torchrelay.core.locks import exclusive
from torchrelay.core.paths import ROOT

PACKAGE = ROOT / "scripts" / "torchrelay"


def test_a_second_holder_is_refused_and_the_first_is_named(tmp_path: Path) -> None:
    def hold() -> AbstractContextManager[None]:
        return exclusive(tmp_path / "lock", "held by {}")

    with hold(), pytest.raises(Busy, match=f"held by {os.getpid()}"), hold():
        pass
    with hold():  # free again
        pass


def test_a_wait_is_logged_once_with_the_holder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "torchrelay.core.locks")
    with exclusive(tmp_path / "lock", "held by {}", 1.0):
        assert caplog.messages == []
        with pytest.raises(Busy), exclusive(tmp_path / "lock", "held by {}"):
            pass
        assert caplog.messages == []
        with pytest.raises(Busy), exclusive(tmp_path / "lock", "held by {}", 0.3):
            pass
    assert caplog.messages == [f"waiting for another process ({os.getpid()}) that holds {tmp_path / 'lock'}"]


def starters(pattern: str) -> list[str]:
    return [path.relative_to(PACKAGE).as_posix() for path in sorted(PACKAGE.rglob("*.py")) if re.search(pattern, path.read_text())]


def test_git_is_started_in_one_place() -> None:
    assert starters(r"""\[\s*["']git["']""") == ["core/git.py"]


def test_files_are_locked_in_one_place() -> None:
    assert starters(r"\b(fcntl|flock|FileLock)\b") == ["core/locks.py"]


def test_imports_keep_their_names() -> None:
    pattern = re.compile(r"^\s*(?:from \S+ )?import .* as (?!np\b)\w+", re.MULTILINE)
    renamed = [
        f"{path.relative_to(ROOT)}: {statement.strip()}"
        for folder in ("scripts", "handlers", "runtime")
        for path in sorted((ROOT / folder).rglob("*.py"))
        for statement in pattern.findall(path.read_text(encoding="utf-8"))
    ]
    assert renamed == []


@pytest.mark.parametrize("data", [b"{", b"\xff", b"[" * 100_000, b"9" * 5000])
def test_all_invalid_json_is_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 -- the message is Python's own
        parse_untrusted(data)


def test_untrusted_json_has_a_limit() -> None:
    assert parse_untrusted(b"[1]", 3) == [1]
    with pytest.raises(ValueError, match="larger than 2 bytes"):
        parse_untrusted(b"[1]", 2)
