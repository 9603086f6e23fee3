"""Runs one step in the Python that has fastai: no credentials, no network where that can be had, a scratch folder, a deadline."""

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

from torchrelay.authoring.fastai.refusal import refused
from torchrelay.core import paths, shell
from torchrelay.core.text import printable

log = logging.getLogger(__name__)
MAIN = Path(__file__).with_name("inside") / "main.py"
MAX_ANSWER = 64 << 20
# Namespaces of its own for users, the network and processes: nothing can be reached, and what it starts ends with it.
UNSHARED = ["unshare", "--user", "--map-root-user", "--net", "--pid", "--fork", "--kill-child"]
HOW_TO = (
    "make an environment for it, `python3 -m venv fastai && fastai/bin/pip install fastai`, with the fastai version that exported "
    "the file, and name it: --python fastai/bin/python"
)


@dataclass(frozen=True)
class Sandbox:
    """Where and how steps run. `python` has fastai; `seconds` is each step's time; each has a folder of its own in `folder`."""

    python: str
    folder: Path
    seconds: int

    def step(self, name: str, asked: Mapping[str, Any], given: Iterable[Path], file_bytes: int) -> dict[str, Any]:
        """Run `inside/main.py NAME` over copies of files and return its answer: a stranger's, of which nothing has been looked at.

        Raises:
            ModelInvalid: it failed, outlived its time, or left no answer.
        """
        scratch = self.folder / name
        scratch.mkdir()
        for file in given:
            shutil.copyfile(file, scratch / file.name)
        import_from = [str(paths.HANDLERS.parent)]
        told = {**asked, "scratch": str(scratch), "seconds": self.seconds, "file_bytes": file_bytes, "import_from": import_from}
        request = scratch / "asked.json"
        request.write_text(json.dumps(told), encoding="utf-8")
        self._run(name, scratch, request)
        try:
            found = answer_of(self.take(name, f"{name}.json", MAX_ANSWER))
        except (OSError, ValueError, RecursionError) as error:
            raise refused(f"loading it left no answer: {printable(str(error))}") from error
        if not found.get("fenced"):
            log.warning("this kernel has no Landlock: while it was loaded the file could read and write what you can")
        if not found.get("unplugged"):
            log.warning("no seccomp filter is known for this processor: while it was loaded the file could open sockets")
        return found

    def take(self, name: str, file: str, most: int) -> Path:
        """A copy of what a step left, out of the reach of anything that it started and that may have outlived it.

        Raises:
            ValueError: it left something else than a file of at most `most` bytes.
            OSError: it cannot be read.
        """
        taken = self.folder / file
        with os.fdopen(os.open(self.folder / name / file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as source:
            told = os.fstat(source.fileno())
            if not stat.S_ISREG(told.st_mode) or told.st_size > most:
                raise ValueError(f"{file} is not a file of at most {most} bytes")
            with taken.open("wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
        return taken

    def _run(self, name: str, scratch: Path, request: Path) -> None:
        written = self.folder / f"{name}.log"  # not in its folder: there it could be made into anything
        argv = command(self.python, name, request, unshared=can_unshare())
        log.debug("+ %s", " ".join(argv))
        with written.open("wb") as errors:
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
            raise refused(f"loading it took more than {self.seconds} s", "give it longer: --timeout SECONDS") from None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if code != 0:
            log_tail = written.read_bytes()[-3000:].decode("utf-8", "replace")
            last = next((line for line in reversed(log_tail.splitlines()) if line.strip()), f"it ended with {code}")
            log.debug("%s", "\n".join(printable(line, 400) for line in log_tail.splitlines()))
            raise refused(
                f"loading it failed: {printable(last.strip(), 400)}", "-v shows more; is this the fastai that exported it?"
            )


def command(python: str, name: str, request: Path, *, unshared: bool) -> list[str]:
    """What is run: Python without the environment's, the user's and the folder's modules (-I), in namespaces of its own."""
    return [*(UNSHARED if unshared else []), python, "-I", str(MAIN), name, str(request)]


def environment(scratch: Path) -> dict[str, str]:
    """All the variables that it gets: none of the caller's, so no credential."""
    home = str(scratch)
    return {
        "PATH": "/usr/bin:/bin",
        "HOME": home,
        "TMPDIR": home,
        "XDG_CACHE_HOME": home,
        "MPLCONFIGDIR": home,
        "LANG": "C.UTF-8",
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",  # one picture: more threads only wait for each other
    }


@cache
def can_unshare() -> bool:
    """Whether this machine gives namespaces; said once when it does not."""
    if shutil.which("unshare") is not None:
        try:
            shell.run([*UNSHARED, "true"], timeout=20)
        except shell.CommandFailed as error:
            log.debug("%s", error)
        else:
            return True
    log.warning("this machine gives no namespaces (unshare): a seccomp filter alone keeps the file from the network")
    return False


def answer_of(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        ValueError: it holds something else.
    """
    found = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(found, dict):
        raise ValueError(f"{path.name} is not an object")  # noqa: TRY004 -- of a file's content, not of an argument
    return found


def python_with_fastai(named: str | None) -> str:
    """The Python that has fastai: the one that is named, else this one.

    Raises:
        ModelInvalid: it has none.
    """
    python = named or sys.executable
    if named is not None and shutil.which(named) is None:
        raise refused(f"--python {printable(named)} is not a program", HOW_TO)
    # found, not imported: the answer comes in milliseconds
    looked = "import importlib.util as u, sys; sys.exit(any(u.find_spec(name) is None for name in ('fastai', 'torch')))"
    try:
        shell.run([python, "-I", "-c", looked], timeout=60)
    except shell.CommandFailed as error:
        raise refused(f"{printable(python)} has no fastai", HOW_TO) from error
    return str(Path(shutil.which(python) or python).absolute())
