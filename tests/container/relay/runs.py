"""The command as users run it: a separate process on a copy of an example, with a separate name and port."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import docker
import requests

from tests.container.harness import MODELS, poll
from torchrelay.core.paths import cache_dir
from torchrelay.docker.scratch import LABEL, owner

ROOT = Path(__file__).resolve().parents[3]
EXAMPLES = ROOT / "examples"
TIMEOUT_S = 240.0

# The digits network with a model's own handler file, and one request for any handler.
OWN_HANDLER = """\
name: {name}
weights: model.pt
handler: handler.py
model_file: model.py
init_args: {{width: 16}}
resources: {{cpu: 2, memory: 1Gi}}
targets: {{docker: {{port: {port}}}}}
"""
ONE_SAMPLE = '{"request": {"json": [[0.5, 0.5], [0.5, 0.5]]}, "expect": {"json": "what the handler answers"}}'


@dataclass(frozen=True)
class Outcome:
    """How a run of the command ended."""

    code: int
    out: str
    err: str
    seconds: float

    @property
    def result(self) -> dict[str, Any]:
        """The JSON object on stdout."""
        assert self.code == 0, self.output
        return dict(json.loads(self.out))

    @property
    def output(self) -> str:
        """The exit code, and everything that was printed."""
        return f"exit code {self.code} after {self.seconds:.1f} s\n{self.out}\n{self.err}"

    def stage(self, name: str) -> dict[str, Any]:
        """The row of one stage."""
        return dict(next(stage for stage in self.result["stages"] if stage["stage"] == name))

    def refused(self, code: int, *fragments: str) -> str:
        """Assert that it ended in one clear error with this exit code; returns the error."""
        assert self.code == code, self.output
        assert "Traceback" not in self.err or code == 20, self.output  # a model's own traceback belongs to the gate
        errors = re.findall(r"^torchrelay: ", self.err, re.MULTILINE)
        assert len(errors) == 1, self.output
        error = self.err[self.err.index("torchrelay: ") :]
        for fragment in fragments:
            assert fragment in error, self.output
        return error


@dataclass
class Cli:
    """Starts the command with an environment, and ends the processes that a test left running."""

    env: dict[str, str]
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def start(self, *arguments: str | Path, env: Mapping[str, str] | None = None, shell: str = "") -> subprocess.Popen[str]:
        """Start the command in a separate process group; `shell` is a program that ends by running `"$@"`."""
        command = [sys.executable, "-m", "torchrelay", *map(str, arguments)]
        process = subprocess.Popen(
            ["sh", "-c", shell, "sh", *command] if shell else command,
            env={**os.environ, **self.env, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.started.append(process)
        return process

    def finish(self, process: subprocess.Popen[str], timeout: float = TIMEOUT_S) -> Outcome:
        """Wait for the end of a process."""
        begin = time.monotonic()
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            out, err = process.communicate()
            raise AssertionError(f"did not end within {timeout} s\n{out}\n{err}") from None
        return Outcome(process.returncode, out, err, time.monotonic() - begin)

    def __call__(
        self, *arguments: str | Path, env: Mapping[str, str] | None = None, timeout: float = TIMEOUT_S, shell: str = ""
    ) -> Outcome:
        """Run the command to its end."""
        return self.finish(self.start(*arguments, env=env, shell=shell), timeout)

    def end_all(self) -> None:
        """Kill the processes that still run."""
        for process in self.started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
        self.started.clear()


def digits(folder: Path, name: str, port: int) -> Path:
    """Copy examples/digits, with a separate name and port: the example itself may be deployed on this machine."""
    ignored = shutil.ignore_patterns(".torchrelay", "weights.lock", "train.py", "README.md")
    shutil.copytree(EXAMPLES / "digits", folder, ignore=ignored)
    edit(folder / "model.yaml", "name: digits", f"name: {name}")
    edit(folder / "model.yaml", "docker: {port: 8080}", f"docker: {{port: {port}}}")
    return folder


def own_handler(folder: Path, case: str, name: str, port: int = 8080, **settings: str) -> Path:
    """Make a model directory of a case: digits' network and weights, the case's handler.py and, if it has one, samples."""
    folder.mkdir(parents=True)
    for file in ("model.py", "model.pt"):
        shutil.copyfile(EXAMPLES / "digits" / file, folder / file)
    shutil.copytree(MODELS / case, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    more = "".join(f"{key}: {value}\n" for key, value in settings.items())
    (folder / "model.yaml").write_text(OWN_HANDLER.format(name=name, port=port) + more)
    if not (folder / "samples").is_dir():
        (folder / "samples").mkdir()
        (folder / "samples/one.json").write_text(ONE_SAMPLE)
    return folder


def edit(file: Path, old: str, new: str) -> None:
    """Replace text that is there exactly once."""
    text = file.read_text()
    assert text.count(old) == 1, f"{file}: {old!r} is there {text.count(old)} times"
    file.write_text(text.replace(old, new))


def copy_of(verified: Path, folder: Path) -> Path:
    """Copy a model directory with its state: nothing is verified again while its inputs stay the same."""
    shutil.copytree(verified, folder)
    return folder


def private_cache(folder: Path) -> Path:
    """Make a cache that shares the runtime image, and nothing else, with the real one."""
    shutil.copytree(cache_dir() / "layers", folder / "layers", ignore=shutil.ignore_patterns("dependencies-*"))
    for shared in ("runtime", "blobs"):
        (folder / shared).symlink_to(cache_dir() / shared)
    return folder


def verdict(folder: Path) -> dict[str, Any]:
    """Read verdict.json."""
    return dict(json.loads((folder / ".torchrelay/verdict.json").read_text()))


def scratch_containers(client: docker.DockerClient, folder: Path) -> list[str]:
    """Name the containers that a run over this directory made for itself and did not remove."""
    containers = client.containers.list(all=True, filters={"label": f"{LABEL}={owner(folder)}"}, ignore_removed=True)
    return [str(container.name) for container in containers]


def deployed_containers(client: docker.DockerClient, name: str) -> dict[str, str]:
    """Name -> state of the containers that the docker target started for a model."""
    containers = client.containers.list(all=True, filters={"label": f"org.torchrelay.name={name}"}, ignore_removed=True)
    return {str(container.name): str(container.status) for container in containers}


def half_written(folder: Path) -> list[str]:
    """Name the files that a run left half-written."""
    return [str(path) for path in folder.rglob("*") if path.name.endswith((".tmp", ".part"))]


def repositories(host: str) -> list[str]:
    """Name the repositories of a registry."""
    return list(requests.get(f"http://{host}/v2/_catalog", timeout=5).json()["repositories"] or [])


def wait_for(what: str, look: Any, process: subprocess.Popen[str], seconds: float = 60.0) -> Any:
    """Wait until `look` returns something while a process runs. Raises AssertionError with its output if it ends first."""

    def alive() -> Any:
        seen = look()
        if not seen and process.poll() is not None:
            out, err = process.communicate()
            raise AssertionError(f"{what} was not seen before the end with code {process.returncode}\n{out}\n{err}")
        return seen

    return poll(what, alive, seconds)


@contextmanager
def removed_afterwards(client: docker.DockerClient, name: str) -> Iterator[None]:
    """Remove a model's containers, network and images in the end, after a failure too."""
    try:
        yield
    finally:
        for container in client.containers.list(all=True, filters={"label": f"org.torchrelay.name={name}"}, ignore_removed=True):
            container.remove(force=True, v=True)
        for network in client.networks.list(names=[f"torchrelay-{name}"]):
            network.remove()
        for image in client.images.list(name=f"torchrelay/{name}"):
            client.images.remove(str(image.id), force=True)
