"""Installs `torchrelay` in its own virtual environment and puts it on a job's PATH: `setup.py locate`, then `setup.py install`.

Runs on Python 3.8 or later, because the runner's own `python3` starts it; it then looks for a Python that is new enough. It writes
to the runner's tool cache (otherwise to its temporary folder), which all jobs of a machine share:

    environments/KEY/   a virtual environment of the locked packages
    packages/DIGEST/    this repository's code
    bin/KEY-DIGEST/     only `torchrelay`
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, NoReturn

ROOT = Path(__file__).resolve().parents[2]
LOCK = ROOT / "requirements" / "package.txt"
OLDEST = (3, 11)
# Pythons that the lock file has wheels for, the newest first; the input `python` can name a later one.
NAMES = ("python3.14", "python3.13", "python3.12", "python3.11", "python3", "python")
# All files that the command reads, without tests and documentation.
PACKAGE = (
    "scripts", "handlers", "runtime", "requirements", "schema", "k8s", "infra",
    "Dockerfile", "LICENSE", "pyproject.toml", ".github/workflows/serve.yml",
)  # fmt: skip
MARKER = "complete"
# Variable of this step -> variable of the following steps. With one name, an empty input would hide the job's own variable.
EXPORTED = {
    "INPUT_WEIGHTS_CACHE": "TORCHRELAY_WEIGHTS_CACHE",
    "INPUT_TORCH_INDEX": "TORCHRELAY_TORCH_INDEX",
    "INPUT_BASE_IMAGE": "TORCHRELAY_BASE_IMAGE",
}
WAIT_S = 900.0  # longest wait for another job that installs here
POLL_S = 0.2
PROBE = "import json, sys, venv, ensurepip; print(json.dumps([sys.version_info[:3], sys._base_executable]))"
# Settings of the caller that would make pip install into another environment.
FOREIGN = (
    "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_USER", "PIP_REQUIRE_VIRTUALENV", "PIP_PYTHON", "PIP_CONSTRAINT", "PIP_REQUIREMENT",
    "PYTHONHOME", "PYTHONPATH", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__",
)  # fmt: skip
LAUNCH = """import sys

sys.path.insert(0, {scripts!r})
from torchrelay.cli.main import main  # noqa: E402 -- found by the line above

main()
"""


class Python(NamedTuple):
    """A usable interpreter. For a virtual environment, which may be deleted later, this is the interpreter it was created from."""

    executable: str
    version: tuple[int, ...]


def fail(message: str, fix: str) -> NoReturn:
    """End the step with one error annotation."""
    text = f"{message}\nfix: {fix}"
    escaped = text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    print(f"::error title=torchrelay setup::{escaped}", flush=True)
    sys.stderr.write(f"torchrelay setup: {text}\n")
    sys.exit(1)


def candidates(wanted: str, environment: Mapping[str, str]) -> list[str]:
    """Return the interpreters to try: only the wanted one, otherwise those on the PATH, then those in the tool cache."""
    if wanted:
        return [wanted]
    cached = Path(environment.get("RUNNER_TOOL_CACHE") or os.devnull) / "Python"
    tools = [str(path) for name in NAMES[:4] for path in sorted(cached.glob(f"{name[len('python') :]}.*/*/bin/{name}"))]
    return [*NAMES, *tools, sys.executable]


def probe(candidate: str) -> tuple[Python | None, str]:
    """Return the interpreter, or the reason why it cannot be used."""
    program = shutil.which(candidate)
    if program is None:
        return None, "not found"
    try:
        process = subprocess.run([program, "-I", "-c", PROBE], capture_output=True, text=True, timeout=30, check=False)
        version, base = json.loads(process.stdout)
    except ValueError:
        errors = process.stderr.strip().splitlines()
        problem = "has no venv and ensurepip" if "No module named" in process.stderr else "does not run"
        return None, f"{problem} ({errors[-1] if errors else f'exit code {process.returncode}'})"
    except (OSError, subprocess.TimeoutExpired) as error:
        return None, f"does not run ({error})"
    if tuple(version[:2]) < OLDEST:
        return None, f"is {'.'.join(map(str, version))}"
    return Python(os.path.realpath(base), tuple(version)), ""


def find(wanted: str, environment: Mapping[str, str]) -> Python:
    """Return the first usable candidate, or end the step with the reason for each one."""
    reasons = []
    for candidate in dict.fromkeys(candidates(wanted, environment)):
        python, reason = probe(candidate)
        if python is not None:
            return python
        if reason != "not found" or wanted:
            reasons.append(f"{candidate} {reason}")
    least = ".".join(map(str, OLDEST))
    fail(
        f"no Python {least} or later with venv on this runner: {'; '.join(reasons) or 'there is no Python'}",
        f"install one (Debian: python3 python3-venv), or run actions/setup-python with python-version '{least}' before this step,"
        " or set the input `python`",
    )


def environment_key(python: Python, lock: bytes) -> str:
    """Return the name of an environment, made of everything that it depends on."""
    version = ".".join(map(str, python.version))
    base = hashlib.sha256(python.executable.encode()).hexdigest()[:8]
    return f"torchrelay-{platform.system()}-{platform.machine()}-py{version}-{base}-{hashlib.sha256(lock).hexdigest()[:16]}"


def package_files(root: Path) -> list[Path]:
    """Return the files of the package, relative to its root."""
    files: list[Path] = []
    for name in PACKAGE:
        top = root / name
        files += [path for path in top.rglob("*") if path.is_file()] if top.is_dir() else [top] if top.is_file() else []
    return sorted(path.relative_to(root) for path in files if "__pycache__" not in path.parts)


def package_digest(root: Path) -> str:
    """Return the name of the package, made of its files."""
    digest = hashlib.sha256()
    for path in package_files(root):
        content = hashlib.sha256((root / path).read_bytes()).hexdigest()
        digest.update(f"{path} {os.access(root / path, os.X_OK)} {content}\n".encode())
    return digest.hexdigest()[:16]


def home(environment: Mapping[str, str]) -> Path:
    """Return the folder that all jobs of this machine share; the job's own folder if that is not writable."""
    for name in ("RUNNER_TOOL_CACHE", "RUNNER_TEMP"):
        if not environment.get(name):
            continue
        folder = Path(environment[name]).resolve() / "torchrelay"  # the same name whichever link leads to it
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(folder, os.W_OK):
            return folder
    fail("neither RUNNER_TOOL_CACHE nor RUNNER_TEMP is a writable folder", "run this as a step of a workflow")


@contextlib.contextmanager
def exclusive(folder: Path, environment: Mapping[str, str]) -> Iterator[None]:
    """Let only one job at a time write to the folder; the kernel releases the lock of a killed job.

    Waits at most WAIT_S seconds, then ends the step and names the job that holds the lock. filelock is not installed yet.
    """
    lock, holder = folder / "lock", folder / "lock.holder"
    with lock.open("w") as file:
        deadline, announced = time.monotonic() + WAIT_S, False
        while not try_lock(file.fileno(), lock):
            try:
                name = holder.read_text(errors="replace").strip()
            except OSError:  # the other job has just started or ended
                name = "unknown"
            if time.monotonic() > deadline:
                fail(f"another job has held {lock} for {WAIT_S:.0f} s: {name}", "end that job, then run this one again")
            if not announced:
                print(f"another job installs here, waiting at most {WAIT_S:.0f} s: {name}", flush=True)
                announced = True
            time.sleep(POLL_S)
        holder.write_text(job_name(environment))
        try:
            yield
        finally:
            holder.unlink()


def try_lock(descriptor: int, lock: Path) -> bool:
    """Take the lock; False if another process holds it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            fail(f"cannot lock {lock}: {error.strerror}", "put RUNNER_TOOL_CACHE on a file system that supports locks")
        return False
    return True


def job_name(environment: Mapping[str, str]) -> str:
    """Return the text that identifies this job to the jobs that wait for it."""
    names = [environment.get(name, "") for name in ("GITHUB_REPOSITORY", "GITHUB_WORKFLOW", "GITHUB_JOB", "GITHUB_RUN_ID")]
    return " ".join(["process", str(os.getpid()), *(name for name in names if name)])


def clean_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment without variables that redirect pip or Python; index, proxy and certificate settings stay."""
    return {name: value for name, value in environment.items() if name not in FOREIGN}


def make_environment(folder: Path, python: Python) -> None:
    """Install the locked packages. Remains of a killed job are removed first; the marker is written last."""
    shutil.rmtree(folder, ignore_errors=True)
    inside = str(folder / "venv" / "bin" / "python")
    for command in (
        [python.executable, "-I", "-m", "venv", str(folder / "venv")],
        [inside, "-I", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input", "--progress-bar", "off",
         "--require-hashes", "--requirement", str(LOCK)],
    ):  # fmt: skip
        print("+", shlex.join(command), flush=True)
        process = subprocess.run(command, env=clean_environment(os.environ), check=False)
        if process.returncode:
            fail(
                f"{shlex.join(command)} failed with exit code {process.returncode}",
                "read the lines above; the runner must reach its package index (set PIP_INDEX_URL to use another one)",
            )
    (folder / MARKER).touch()


def make_package(folder: Path) -> None:
    """Copy the package out of the action's folder, which is deleted after the job."""
    shutil.rmtree(folder, ignore_errors=True)
    for path in package_files(ROOT):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / path, folder / path)
    (folder / "launch.py").write_text(LAUNCH.format(scripts=str(folder / "scripts")))
    (folder / MARKER).touch()


def make_launcher(folder: Path, environment: Path, package: Path) -> Path:
    """Write the command. It runs Python isolated, so that the job's PYTHONPATH and working directory have no effect."""
    folder.mkdir(parents=True, exist_ok=True)
    python = shlex.quote(str(environment / "venv" / "bin" / "python"))
    temporary, launcher = folder.parent / f".{os.getpid()}", folder / "torchrelay"
    temporary.write_text(f'#!/bin/sh\nexec {python} -I {shlex.quote(str(package / "launch.py"))} "$@"\n')
    temporary.chmod(0o755)
    temporary.replace(launcher)
    return launcher


def version_of(launcher: Path) -> str:
    """Return the version that the command prints; "" if it does not run."""
    try:
        process = subprocess.run([str(launcher), "--version"], capture_output=True, text=True, timeout=120, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return process.stdout.split()[-1] if process.returncode == 0 and process.stdout.strip() else ""


def append(variable: str, line: str) -> None:
    """Add one line to one of the runner's files, e.g. GITHUB_OUTPUT."""
    if "\n" in line or "\r" in line:
        fail(f"{line!r} contains a line break", "use a value without line breaks")
    if path := os.environ.get(variable):
        with Path(path).open("a") as file:
            file.write(line + "\n")
    print(f"{variable}: {line}", flush=True)


def install(python: Python, folder: Path) -> tuple[Path, str]:
    """Install what is missing or broken; return the launcher and the version that it prints."""
    key, digest = environment_key(python, LOCK.read_bytes()), package_digest(ROOT)
    environment, package = folder / "environments" / key, folder / "packages" / digest
    with exclusive(folder, os.environ):
        if not (package / MARKER).exists():
            make_package(package)
        launcher = make_launcher(folder / "bin" / f"{key}-{digest}", environment, package)
        if (environment / MARKER).exists() and (version := version_of(launcher)):
            return launcher, version
        make_package(package)
        make_environment(environment, python)
        if version := version_of(launcher):
            return launcher, version
    fail(f"{launcher} was installed but does not run", "run it by hand on this runner and report its output")


def main() -> None:
    """Run one of the two steps: locate or install."""
    environment = os.environ
    python, folder = find(environment.get("TORCHRELAY_PYTHON", ""), environment), home(environment)
    key = environment_key(python, LOCK.read_bytes())
    if sys.argv[1:] == ["locate"]:
        append("GITHUB_OUTPUT", f"python-version={'.'.join(map(str, python.version))}")
        append("GITHUB_OUTPUT", f"environment={folder / 'environments' / key}")
        append("GITHUB_OUTPUT", f"key={key}")
    elif sys.argv[1:] == ["install"]:
        launcher, version = install(python, folder)
        append("GITHUB_PATH", str(launcher.parent))
        append("GITHUB_OUTPUT", f"version={version}")
        append("GITHUB_OUTPUT", f"path={launcher.parent}")
        for name, variable in EXPORTED.items():
            if value := environment.get(name):
                append("GITHUB_ENV", f"{variable}={value}")
    else:
        fail(f"unknown step {' '.join(sys.argv[1:])!r}", "write locate or install")


if __name__ == "__main__":
    main()
