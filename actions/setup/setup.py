"""Put `torchrelay` on a job's PATH, from an environment of its own: `setup.py locate`, then `setup.py install`.

Written for any Python from 3.7 on, as it is started by whatever `python3` the runner has; it looks for one that is new enough.
What it makes lies in the runner's tool cache (else in its temporary folder) and is shared by all jobs of that machine:

    environments/KEY/   a virtual environment of the locked packages
    packages/DIGEST/    this repository's code
    bin/KEY-DIGEST/     `torchrelay`, and nothing else
"""

from __future__ import annotations

import contextlib
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
# The newest first that the lock has wheels for; a later one is taken when it is asked for by name.
NAMES = ("python3.14", "python3.13", "python3.12", "python3.11", "python3", "python")
# What the command reads, and nothing that only tests and documents need.
PACKAGE = (
    "scripts", "handlers", "runtime", "requirements", "schema", "k8s", "infra",
    "Dockerfile", "LICENSE", "pyproject.toml", ".github/workflows/serve.yml",
)  # fmt: skip
MARKER = "complete"
# A variable of this step -> what the steps that follow read. Two names, as an empty input would hide the job's own variable here.
EXPORTED = {
    "INPUT_WEIGHTS_CACHE": "TORCHRELAY_WEIGHTS_CACHE",
    "INPUT_TORCH_INDEX": "TORCHRELAY_TORCH_INDEX",
    "INPUT_BASE_IMAGE": "TORCHRELAY_BASE_IMAGE",
}
WAIT_S = 900
PROBE = "import json, sys, venv, ensurepip; print(json.dumps([sys.version_info[:3], sys._base_executable]))"
# A caller's settings that would send packages elsewhere than into our environment.
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
    """An interpreter that will do: not one of a virtual environment, which may be gone tomorrow, but what that was made of."""

    executable: str
    version: tuple[int, ...]


def fail(message: str, fix: str) -> NoReturn:
    """End the step with one annotation."""
    text = f"{message}\nfix: {fix}"
    escaped = text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    print(f"::error title=torchrelay setup::{escaped}", flush=True)
    sys.stderr.write(f"torchrelay setup: {text}\n")
    sys.exit(1)


def candidates(wanted: str, environment: Mapping[str, str]) -> list[str]:
    """Return what to try, the best first: what was asked for alone, else the PATH's and then the tool cache's."""
    if wanted:
        return [wanted]
    kept = Path(environment.get("RUNNER_TOOL_CACHE") or os.devnull) / "Python"
    tools = [str(path) for name in NAMES[:4] for path in sorted(kept.glob(f"{name[len('python') :]}.*/*/bin/{name}"))]
    return [*NAMES, *tools, sys.executable]


def probe(candidate: str) -> tuple[Python | None, str]:
    """Return the interpreter, or why this one will not do."""
    program = shutil.which(candidate)
    if program is None:
        return None, "not found"
    try:
        asked = subprocess.run([program, "-I", "-c", PROBE], capture_output=True, text=True, timeout=30, check=False)
        version, base = json.loads(asked.stdout)
    except ValueError:
        told = asked.stderr.strip().splitlines()
        lacks = "has no venv and ensurepip" if "No module named" in asked.stderr else "does not run"
        return None, f"{lacks} ({told[-1] if told else f'exit code {asked.returncode}'})"
    except (OSError, subprocess.TimeoutExpired) as error:
        return None, f"does not run ({error})"
    if tuple(version[:2]) < OLDEST:
        return None, f"is {'.'.join(map(str, version))}"
    return Python(os.path.realpath(base), tuple(version)), ""


def find(wanted: str, environment: Mapping[str, str]) -> Python:
    """Return the first candidate that will do, or end the step with what was wrong with each."""
    reasons = []
    for candidate in dict.fromkeys(candidates(wanted, environment)):
        python, reason = probe(candidate)
        if python is not None:
            return python
        if reason != "not found" or wanted:
            reasons.append(f"{candidate} {reason}")
    least = ".".join(map(str, OLDEST))
    fail(
        f"no Python {least} or later with venv on this runner: {'; '.join(reasons) or 'none at all'}",
        f"install one (Debian: python3 python3-venv), or run actions/setup-python with python-version '{least}' before this step,"
        " or name one in the input `python`",
    )


def environment_key(python: Python, lock: bytes) -> str:
    """Name an environment by all that it depends on."""
    version = ".".join(map(str, python.version))
    base = hashlib.sha256(python.executable.encode()).hexdigest()[:8]
    return f"torchrelay-{platform.system()}-{platform.machine()}-py{version}-{base}-{hashlib.sha256(lock).hexdigest()[:16]}"


def package_files(root: Path) -> list[Path]:
    """Return the files of the package, relative to its root."""
    found: list[Path] = []
    for name in PACKAGE:
        top = root / name
        found += [path for path in top.rglob("*") if path.is_file()] if top.is_dir() else [top] if top.is_file() else []
    return sorted(path.relative_to(root) for path in found if "__pycache__" not in path.parts)


def package_digest(root: Path) -> str:
    """Name the package by its files."""
    digest = hashlib.sha256()
    for path in package_files(root):
        content = hashlib.sha256((root / path).read_bytes()).hexdigest()
        digest.update(f"{path} {os.access(root / path, os.X_OK)} {content}\n".encode())
    return digest.hexdigest()[:16]


def home(environment: Mapping[str, str]) -> Path:
    """Return the folder that all jobs of this machine share, or this job's own when there is none to write to."""
    for name in ("RUNNER_TOOL_CACHE", "RUNNER_TEMP"):
        if not environment.get(name):
            continue
        folder = Path(environment[name]).resolve() / "torchrelay"  # one name for a folder that several links lead to
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(folder, os.W_OK):
            return folder
    fail("neither RUNNER_TOOL_CACHE nor RUNNER_TEMP is a folder to write to", "run this as a step of a workflow")


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Let one job at a time write here; the kernel ends the turn of one that is killed."""
    with (folder / "lock").open("w") as file:
        deadline, told = time.monotonic() + WAIT_S, False
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() > deadline:
                    fail(f"another job has held {folder / 'lock'} for {WAIT_S} s", "end that job, then run this one again")
            if not told:
                print("another job installs here: waiting for it", flush=True)
                told = True
            time.sleep(0.2)
        yield


def clean_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment less what would lead pip or Python astray; index, proxy and certificate settings stay."""
    return {name: value for name, value in environment.items() if name not in FOREIGN}


def make_environment(folder: Path, python: Python) -> None:
    """Install the locked packages; what a killed job left is removed first, and the marker is written last."""
    shutil.rmtree(folder, ignore_errors=True)
    inside = str(folder / "venv" / "bin" / "python")
    for command in (
        [python.executable, "-I", "-m", "venv", str(folder / "venv")],
        [inside, "-I", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input", "--progress-bar", "off",
         "--require-hashes", "--requirement", str(LOCK)],
    ):  # fmt: skip
        print("+", shlex.join(command), flush=True)
        done = subprocess.run(command, env=clean_environment(os.environ), check=False)
        if done.returncode:
            fail(
                f"{shlex.join(command)} ended with exit code {done.returncode}",
                "read the lines above; this runner must reach its package index (PIP_INDEX_URL names another one)",
            )
    (folder / MARKER).touch()


def make_package(folder: Path) -> None:
    """Copy the package out of the action's folder, which does not outlive the job."""
    shutil.rmtree(folder, ignore_errors=True)
    for path in package_files(ROOT):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / path, folder / path)
    (folder / "launch.py").write_text(LAUNCH.format(scripts=str(folder / "scripts")))
    (folder / MARKER).touch()


def make_launcher(folder: Path, environment: Path, package: Path) -> Path:
    """Write the command: isolated, so that neither the job's PYTHONPATH nor its folder is looked at."""
    folder.mkdir(parents=True, exist_ok=True)
    python = shlex.quote(str(environment / "venv" / "bin" / "python"))
    made, launcher = folder.parent / f".{os.getpid()}", folder / "torchrelay"
    made.write_text(f'#!/bin/sh\nexec {python} -I {shlex.quote(str(package / "launch.py"))} "$@"\n')
    made.chmod(0o755)
    made.replace(launcher)
    return launcher


def version_of(launcher: Path) -> str:
    """Return the version that the command prints; empty when it does not run."""
    try:
        told = subprocess.run([str(launcher), "--version"], capture_output=True, text=True, timeout=120, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return told.stdout.split()[-1] if told.returncode == 0 and told.stdout.strip() else ""


def append(variable: str, line: str) -> None:
    """Add one line to a file of the runner's, e.g. GITHUB_OUTPUT."""
    if "\n" in line or "\r" in line:
        fail(f"a line break in {line!r}", "use a folder without one")
    if path := os.environ.get(variable):
        with Path(path).open("a") as file:
            file.write(line + "\n")
    print(f"{variable}: {line}", flush=True)


def install(python: Python, folder: Path) -> tuple[Path, str]:
    """Make what is missing or broken; returns the launcher and the version that it prints."""
    key, digest = environment_key(python, LOCK.read_bytes()), package_digest(ROOT)
    environment, package = folder / "environments" / key, folder / "packages" / digest
    with alone(folder):
        if not (package / MARKER).exists():
            make_package(package)
        launcher = make_launcher(folder / "bin" / f"{key}-{digest}", environment, package)
        if (environment / MARKER).exists() and (version := version_of(launcher)):
            return launcher, version
        make_package(package)
        make_environment(environment, python)
        if version := version_of(launcher):
            return launcher, version
    fail(f"{launcher} was installed and does not run", "run it by hand on this runner, and report what it says")


def main() -> None:
    """Run one of the two steps."""
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
        fail(f"unknown step {' '.join(sys.argv[1:])!r}", "say locate or install")


if __name__ == "__main__":
    main()
