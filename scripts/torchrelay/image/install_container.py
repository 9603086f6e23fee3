"""The containers in which pip and a handler's setup functions run: limits of memory, processes and time, and few capabilities.

The code in them is untrusted: packages run code while they are installed. They have a network and root's user id.
"""

import logging
import math
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Annotated, Any

import docker
from pydantic import BeforeValidator, Field

from torchrelay.core.errors import DependenciesUnresolved
from torchrelay.core.log import log
from torchrelay.core.pip import pip_reason
from torchrelay.core.settings import EnvironmentSettings
from torchrelay.model import quantities
from torchrelay.oci.tar_reader import BadTar, Kind, read_tar

if TYPE_CHECKING:
    from docker.models.containers import Container

WAIT_S = 60  # for the exit code, after the log has ended
GRACE_S = 60  # the container ends itself this long after the time limit, in case nobody is left to stop it
LAST_LINES = 2000  # of the output, for messages
LONGEST_LINE = 4096
MEMORY = "set TORCHRELAY_INSTALL_MEMORY to more, or require less"
SIZE = Annotated[int, BeforeValidator(lambda value: quantities.parse(value) if isinstance(value, str) else value)]


class InstallSettings(EnvironmentSettings):
    """Limits of the containers in which packages are installed and setup functions run."""

    read_by = "build"

    install_memory: SIZE = Field(
        4 << 30, description="Memory of the container in which pip or the handler's setup functions run. Default: `4Gi`."
    )
    install_pids: int = Field(1024, ge=16, le=1 << 22, description="Processes and threads in that container. Default: `1024`.")
    install_timeout_s: int = Field(
        1800, ge=1, le=24 * 3600, description="Seconds until that container is stopped. Default: `1800`."
    )
    install_layer: SIZE = Field(16 << 30, description="Size of all files that are kept of that container. Default: `16Gi`.")


def container_settings(
    settings: InstallSettings, script: str, environment: dict[str, str], capabilities: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Return the container's settings for docker's API: a shell script as root, with these capabilities and no other."""
    seconds = str(settings.install_timeout_s + GRACE_S)
    return {
        # PID 1 ends the container in time, also when this command was killed and cannot.
        "entrypoint": ["timeout", "--kill-after=10", seconds, "/bin/sh", "-c", script],
        "user": "0",
        "environment": environment,
        "healthcheck": {"test": ["NONE"]},
        "cap_drop": ["ALL"],
        "cap_add": list(capabilities),
        "security_opt": ["no-new-privileges"],
        "pids_limit": settings.install_pids,
        "mem_limit": settings.install_memory,
        "memswap_limit": settings.install_memory,
    }


def run_to_end(container: "Container", timeout_s: float, what: str) -> tuple[int, str]:
    """Return exit code and output of a started container once it has ended; kill it after `timeout_s`.

    The log only ends with the container, so a timer in another thread ends both. Raises DependenciesUnresolved.
    """
    killed = threading.Event()

    def kill() -> None:
        killed.set()
        with suppress(Exception):  # it just ended, or the daemon is gone: reading the log reports that
            container.kill()

    timer = threading.Timer(timeout_s, kill)
    timer.daemon = True
    timer.start()
    try:
        output = follow_log(container)
        code = int(container.wait(timeout=WAIT_S)["StatusCode"])
    finally:
        timer.cancel()
    if killed.is_set() and code != 0:
        raise DependenciesUnresolved(
            f"{what} did not end within {math.ceil(timeout_s)} s and was stopped: {pip_reason(output)}",
            "run it again if the network was slow; otherwise remove packages, or ones that wait for input while installing; "
            "TORCHRELAY_INSTALL_TIMEOUT_S is the limit",
        )
    return code, output


def follow_log(container: "Container") -> str:
    """Return the last lines of the container's output once it has ended; log pip's downloads as they happen."""
    lines: deque[str] = deque(maxlen=LAST_LINES)
    rest = b""
    for chunk in container.logs(stream=True, follow=True):
        *complete, rest = (rest + chunk).split(b"\n")
        rest = rest[:LONGEST_LINE]
        for row in complete:
            line = row[:LONGEST_LINE].decode(errors="replace")
            lines.append(line)
            log.log(logging.INFO if line.lstrip().startswith("Downloading") else logging.DEBUG, "  %s", line.strip()[:150])
    return "\n".join([*lines, rest.decode(errors="replace")])


def out_of_memory(container: "Container") -> bool:
    """Return whether the kernel stopped a process of the container because of its memory limit."""
    container.reload()
    return bool(container.attrs["State"].get("OOMKilled"))


@contextmanager
def result_required(author: str) -> Iterator[None]:
    """Raise DependenciesUnresolved where the container has no result."""
    try:
        yield
    except docker.errors.NotFound as error:
        raise DependenciesUnresolved(
            f"{author} ended without a result", "let the function return; it must not end the process"
        ) from error


def file_content(container: "Container", path: str) -> Iterator[bytes]:
    """Yield the bytes of one file of a container. Raises BadTar when it is anything else."""
    stream, _ = container.get_archive(path)
    for entry, content in read_tar(iter(stream)):
        if entry.kind is not Kind.FILE:
            raise BadTar(f"is a {entry.kind}", entry.name)
        yield from content
