"""Prepare this machine for the tests that need Docker and other programs: `python -m tests.machine up|down`.

As root on Debian, `up` (`make test-machine`) installs missing programs and starts a Docker daemon if none answers; elsewhere it
says what is missing. It also starts the build of the tests' Go programs in the background. A prepared machine stays as it is.
`down` (`make test-machine-down`) ends the processes that `up` started, and nothing else.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from tests.cache import CACHE

# program (or a file of its package) -> Debian package
PROGRAMS = {
    "docker-registry": "docker-registry",
    "dockerd": "docker.io",
    "debootstrap": "debootstrap",
    "skopeo": "skopeo",
    "nginx": "nginx-light",
    "/usr/lib/nginx/modules/ngx_http_lua_module.so": "libnginx-mod-http-lua",
    "iptables": "iptables",
    "git": "git",
    "openssl": "openssl",
    "curl": "curl",
    "bc": "bc",
    "jq": "jq",
    "etcd": "etcd-server",
    "containerd": "containerd",
    "runc": "runc",
    "/usr/lib/cni/bridge": "containernetworking-plugins",
}
STATE = CACHE / "machine"
START_S = 180
END_S = 60


def can_install() -> bool:
    return os.geteuid() == 0 and Path("/etc/debian_version").exists() and shutil.which("apt-get") is not None


def install(missing: list[str]) -> None:
    packages = sorted({PROGRAMS[program] for program in missing})
    if not can_install():
        sys.exit(f"missing: {', '.join(missing)}; install {' '.join(packages)} (Debian's names), then run it again")
    sys.stderr.write(f"installing {' '.join(packages)}\n")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run(["apt-get", "update", "-qq"], check=True, env=environment, stdout=sys.stderr)
    command = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages]
    subprocess.run(command, check=True, env=environment, stdout=sys.stderr)


def is_installed(program: str) -> bool:
    return Path(program).exists() or shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is not None


def docker_answers() -> bool:
    import docker

    try:
        client = docker.from_env(timeout=5)
        return bool(client.ping())
    except (docker.errors.DockerException, OSError):
        return False


def start_in_background(name: str, command: Sequence[str], state: Path = STATE) -> psutil.Process:
    """Start a process that outlives this one; its output goes to NAME.log, its id and start time to NAME.process, for `end`."""
    state.mkdir(parents=True, exist_ok=True)
    with (state / f"{name}.log").open("wb") as output:
        started = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True)
    process = psutil.Process(started.pid)
    (state / f"{name}.process").write_text(f"{process.pid} {process.create_time()}")
    return process


def is_alive(process: psutil.Process) -> bool:
    """Return False for a zombie too: its parent may never collect it."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def background_process(name: str, state: Path = STATE) -> psutil.Process | None:
    """Return the process that `start_in_background` started, if it still runs; the start time excludes a reused process id."""
    try:
        pid, created = (state / f"{name}.process").read_text().split()
        process = psutil.Process(int(pid))
    except (OSError, psutil.NoSuchProcess):
        return None
    return process if process.create_time() == float(created) and is_alive(process) else None


def end(name: str, state: Path = STATE) -> None:
    """End such a process and what it started; no error if it has ended already."""
    process = background_process(name, state)
    if process is None:
        return
    family = [process] if name == "dockerd" else [process, *process.children(recursive=True)]  # dockerd ends containerd by itself
    for one in family:
        with suppress(psutil.NoSuchProcess):
            one.terminate()
    deadline = time.monotonic() + END_S
    while any(is_alive(one) for one in family) and time.monotonic() < deadline:
        time.sleep(0.1)


def start_docker() -> None:
    """Start a daemon unless one answers."""
    if docker_answers():
        return
    if not can_install() or os.environ.get("DOCKER_HOST"):
        sys.exit("no Docker daemon answers: start Docker, then run it again")
    daemon = start_in_background("dockerd", ["dockerd"])
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and is_alive(daemon):
        if docker_answers():
            return
        time.sleep(0.3)
    log = (STATE / "dockerd.log").read_text(errors="replace")
    end("dockerd")
    sys.exit(f"dockerd did not start:\n{log[-2000:]}")


def up() -> None:
    """Install, start and build what is missing."""
    if missing := [program for program in PROGRAMS if not is_installed(program)]:
        install(missing)
    start_docker()
    if background_process("go-programs") is None:
        start_in_background("go-programs", ["nice", "-n", "19", sys.executable, "-m", "tests.build_go_programs"])


def down() -> None:
    """End what `up` started."""
    end("go-programs")
    end("dockerd")


if __name__ == "__main__":
    if sys.argv[1:] == ["up"]:
        up()
    elif sys.argv[1:] == ["down"]:
        down()
    else:
        sys.exit(f"usage: {sys.executable} -m tests.machine up|down")
