"""`install_packages` and `unpack_dependencies`: run once, in that order, when an image is built, or at start if that is asked for.

The whole order: requirements, packed source files, install_packages, unpack_dependencies, init_function. The current
folder is the model's, as in TorchServe's workers.
"""

import contextlib
import fcntl
import importlib
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

logger = logging.getLogger("torchrelay")

SWITCH = "TORCHRELAY_SETUP_AT_START"
MARKER = ".torchrelay-setup"
"""Is in the model's folder once both functions have run, in an image's build or in an earlier worker of this model."""

Function = Callable[[], object] | None


def wanted_at_start(by_archive: bool) -> bool:
    """Whether the functions are to run when the model is loaded: the environment's switch decides, otherwise torchrelay.json.

    Raises:
        ValueError: the switch is neither true nor false.
    """
    switch = os.environ.get(SWITCH, "").strip().lower()
    if switch not in ("", "0", "1", "true", "false"):
        raise ValueError(f"{SWITCH}={switch!r} is neither true nor false")
    return switch in ("1", "true") if switch else by_archive


def set_up(install_packages: Function, unpack_dependencies: Function, model_dir: Path) -> None:
    """Run both in the model's folder, unless they have run; workers that start at the same time wait for the first.

    Raises:
        RuntimeError: one of them raises, or a command that it gives os.system fails; nothing counts as done then.
    """
    if install_packages is None and unpack_dependencies is None:
        return
    with _alone(model_dir):
        if (model_dir / MARKER).exists():
            return
        for name, function in (("install_packages", install_packages), ("unpack_dependencies", unpack_dependencies)):
            if function is not None:
                logger.info("running %s", name)
                _run(name, function, model_dir)
        importlib.invalidate_caches()  # what was installed just now is importable at once
        with contextlib.suppress(OSError):  # a folder that cannot be written is set up once by each worker
            (model_dir / MARKER).write_text("install_packages and unpack_dependencies have run\n", encoding="utf-8")


def remind(install_packages: Function, unpack_dependencies: Function, model_dir: Path) -> None:
    """Log a warning if they have not run; otherwise what they install is missed much later."""
    if (install_packages or unpack_dependencies) and not (model_dir / MARKER).exists():
        logger.warning("install_packages and unpack_dependencies run when an image is built; set %s=true to run them here", SWITCH)


@contextlib.contextmanager
def _alone(model_dir: Path) -> Iterator[None]:
    name = f"torchrelay-setup-{os.getuid()}-{model_dir.resolve().name}.lock"
    with (Path(tempfile.gettempdir()) / name).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _run(name: str, function: Callable[[], object], model_dir: Path) -> None:
    before, system = Path.cwd(), os.system
    failed: list[str] = []

    def watched(command: Any) -> int:
        status = system(command)
        if status:
            failed.append(f"{command!r} ended with {os.waitstatus_to_exitcode(status)}")
        return status

    try:
        os.chdir(model_dir)
        os.system = watched  # authors do not check its status
        function()
    except BaseException as error:
        raise RuntimeError(f"{name} failed: {type(error).__name__}: {error}") from error
    finally:
        os.system = system
        os.chdir(before)
    if failed:
        raise RuntimeError(f"{name} failed: " + "; ".join(failed) + " (write `|| true` behind a command that may fail)")
