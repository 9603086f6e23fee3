"""Runs one step in the Python that has fastai: no credentials, no network, a scratch folder, limited memory and time.

A machine that cannot isolate the step is found before anything is loaded, and refused unless the user says otherwise.
"""

import json
import logging
import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from torchrelay.authoring.fastai.learner import refused
from torchrelay.core import json_text, paths, shell
from torchrelay.core.text import printable

log = logging.getLogger(__name__)
MAIN = Path(__file__).with_name("inside") / "main.py"
MAX_ANSWER = 64 << 20
# Its own namespaces for users, network and processes: it can reach nothing, and the processes that it starts end with it.
UNSHARE = ["unshare", "--user", "--map-root-user", "--net", "--pid", "--fork", "--kill-child"]
UNSAFE = (
    "use a machine with Linux 5.13 or newer that allows user namespaces (`unshare -rn true`); or, if the file may do everything "
    "that you can, add --unsafe-no-sandbox"
)
HOW_TO = (
    "make an environment with the fastai version of the export, `python3 -m venv fastai && fastai/bin/pip install fastai`, "
    "and name its Python: --python fastai/bin/python"
)


@dataclass(frozen=True)
class Sandbox:
    """Where and how steps run. `python` has fastai; each step has `seconds` of time and its own folder in `folder`.

    `unsafe`: steps also run where this machine cannot isolate them.
    """

    python: str
    folder: Path
    seconds: int
    unsafe: bool = False

    def require_isolation(self) -> None:
        """Check what this machine can take away from a process, before anything untrusted is loaded.

        Raises:
            ModelInvalid: it cannot isolate a step, and that was not allowed.
        """
        answer = self.step("probe", {}, [], 1 << 20)
        missing = {
            "namespaces (unshare)": not can_unshare(),
            "Landlock": not answer.get("fenced"),
            "seccomp filter for this processor": not answer.get("unplugged"),
        }
        lacking = ", ".join(name for name, missed in missing.items() if missed)
        if lacking and not self.unsafe:
            raise refused(f"this machine cannot isolate the file, which was not loaded: it has no {lacking}", UNSAFE)
        if lacking:
            log.warning("this machine has no %s: while it is loaded, the file can do more than it needs", lacking)

    def step(self, name: str, options: Mapping[str, Any], inputs: Iterable[Path], file_bytes: int) -> dict[str, Any]:
        """Run `inside/main.py NAME` over copies of files and return its answer, which is untrusted and not validated yet.

        Raises:
            ModelInvalid: the step failed, took too long, or left no answer.
        """
        scratch = self.folder / name
        scratch.mkdir()
        for file in inputs:
            shutil.copyfile(file, scratch / file.name)
        limits = {"seconds": self.seconds, "file_bytes": file_bytes, "unsafe": self.unsafe}
        request = scratch / "request.json"
        content = {**options, **limits, "scratch": str(scratch), "import_from": [str(paths.HANDLERS.parent)]}
        request.write_text(json.dumps(content), encoding="utf-8")
        self._run(name, scratch, request)
        try:
            return read_answer(self.take(name, f"{name}.json", MAX_ANSWER))
        except (OSError, ValueError) as error:
            raise refused(f"loading it left no answer: {printable(str(error))}") from error

    def take(self, name: str, file: str, most: int) -> Path:
        """Return a copy of a file that a step left. A process that outlived the step cannot change the copy.

        Raises:
            ValueError: it is not a file of at most `most` bytes.
            OSError: it cannot be read.
        """
        copy = self.folder / file
        with os.fdopen(os.open(self.folder / name / file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as source:
            status = os.fstat(source.fileno())
            if not stat.S_ISREG(status.st_mode) or status.st_size > most:
                raise ValueError(f"{file} is not a file of at most {most} bytes")
            with copy.open("wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
        return copy

    def _run(self, name: str, scratch: Path, request: Path) -> None:
        log_file = self.folder / f"{name}.log"  # outside the step's folder, where the step cannot replace it
        argv = command(self.python, name, request, unshared=can_unshare())
        log.debug("+ %s", " ".join(argv))
        with log_file.open("wb") as errors:
            process = subprocess.Popen(
                argv,
                cwd=scratch,
                env=environment(scratch),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                start_new_session=True,
            )
        try:
            code = process.wait(self.seconds)
        except subprocess.TimeoutExpired:
            raise refused(f"loading it took more than {self.seconds} s", "allow more time: --timeout SECONDS") from None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if code != 0:
            log_tail = log_file.read_bytes()[-3000:].decode("utf-8", "replace")
            last = next((line for line in reversed(log_tail.splitlines()) if line.strip()), f"its exit code is {code}")
            log.debug("%s", "\n".join(printable(line, 400) for line in log_tail.splitlines()))
            raise refused(
                f"loading it failed: {printable(last.strip(), 400)}",
                "-v shows more; check that this fastai version exported it",
            )


def command(python: str, name: str, request: Path, *, unshared: bool) -> list[str]:
    """Return the command: Python without the modules of the environment, the user and the folder (-I), in its own namespaces."""
    return [*(UNSHARE if unshared else []), python, "-I", str(MAIN), name, str(request)]


def environment(scratch: Path) -> dict[str, str]:
    """Return all its environment variables: none of the caller's, so no credentials."""
    home = str(scratch)
    return {
        "PATH": "/usr/bin:/bin",
        "HOME": home,
        "TMPDIR": home,
        "XDG_CACHE_HOME": home,
        "MPLCONFIGDIR": home,
        "LANG": "C.UTF-8",
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",  # with one picture, more threads would only wait for each other
    }


@cache
def can_unshare() -> bool:
    """Return whether this machine allows namespaces."""
    if shutil.which("unshare") is not None:
        try:
            shell.run([*UNSHARE, "true"], timeout=20)
        except shell.CommandFailed as error:
            log.debug("%s", error)
        else:
            return True
    return False


def read_answer(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file.

    Raises:
        ValueError: it holds something else.
    """
    answer = json_text.parse_untrusted(path.read_bytes())
    if not isinstance(answer, dict):
        raise ValueError(f"{path.name} is not an object")  # noqa: TRY004 -- a file's content is wrong, not an argument's type
    return answer


def python_with_fastai(named: str | None) -> str:
    """Return the Python that has fastai: the named one, otherwise this one.

    Raises:
        ModelInvalid: it does not have fastai.
    """
    python = named or sys.executable
    if named is not None and shutil.which(named) is None:
        raise refused(f"--python {printable(named)} is not a program", HOW_TO)
    # find_spec does not import fastai, so it answers in milliseconds
    program = "import importlib.util as u, sys; sys.exit(any(u.find_spec(name) is None for name in ('fastai', 'torch')))"
    try:
        shell.run([python, "-I", "-c", program], timeout=60)
    except shell.CommandFailed as error:
        raise refused(f"{printable(python)} has no fastai", HOW_TO) from error
    return str(Path(shutil.which(python) or python).absolute())
