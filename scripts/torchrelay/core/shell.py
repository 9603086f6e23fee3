"""Runs other programs: argv lists only, logged, with arguments, code and stderr in the error."""

import logging
import shlex
import subprocess
from collections.abc import Mapping
from pathlib import Path

log = logging.getLogger(__name__)


class CommandFailed(RuntimeError):
    """A program exited with a code other than 0, could not be started (code 127) or exceeded its time limit (code 124)."""

    def __init__(self, argv: list[str], code: int, stderr: str) -> None:
        super().__init__(f"{shlex.join(argv)} ended with {code}: {stderr.strip()[-2000:]}")
        self.argv = argv
        self.code = code
        self.stderr = stderr


def run(
    argv: list[str],
    *,
    cwd: Path | None = None,
    timeout: float | None = None,
    check: bool = True,
    env: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a program until it ends and return its output as text.

    `timeout` is in seconds. Raises CommandFailed when `check` is set and the program fails, is missing or exceeds the limit.
    """
    log.debug("+ %s", shlex.join(argv))
    try:
        done = subprocess.run(argv, cwd=cwd, timeout=timeout, env=env, text=True, capture_output=True, check=False)
    except FileNotFoundError as error:
        raise CommandFailed(argv, 127, f"{error.filename}: not found") from error
    except subprocess.TimeoutExpired as error:
        raise CommandFailed(argv, 124, f"did not end within {timeout} s") from error
    if check and done.returncode != 0:
        raise CommandFailed(argv, done.returncode, done.stderr or done.stdout)
    return done
