"""Make this machine fit for the tests, run a command, and end what was started for it: machine.py [--build-ahead] COMMAND...

As root on Debian it installs the missing programs and starts a Docker daemon when none answers; elsewhere it says what to install.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

# program (or a file of its package) -> Debian package
PROGRAMS = {
    "docker-registry": "docker-registry",
    "dockerd": "docker.io",
    "debootstrap": "debootstrap",
    "skopeo": "skopeo",
    "nginx": "nginx-light",
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
START_S = 60


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


def docker_answers() -> bool:
    import docker

    try:
        client = docker.from_env(timeout=5)
        return bool(client.ping())
    except (docker.errors.DockerException, OSError):
        return False


def start_docker() -> subprocess.Popen[bytes] | None:
    """Start a daemon when none answers; None when one does."""
    if docker_answers():
        return None
    if not can_install() or os.environ.get("DOCKER_HOST"):
        sys.exit("no Docker daemon answers: start Docker, then run it again")
    log = Path("/var/log/torchrelay-tests-dockerd.log")
    with log.open("wb") as output:
        daemon = subprocess.Popen(["dockerd"], stdout=output, stderr=output, start_new_session=True)
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and daemon.poll() is None:
        if docker_answers():
            return daemon
        time.sleep(0.3)
    sys.exit(f"dockerd did not start:\n{log.read_text(errors='replace')[-2000:]}")


def is_there(program: str) -> bool:
    return Path(program).exists() or shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is not None


def main() -> int:
    missing = [program for program in PROGRAMS if not is_there(program)]
    if missing:
        install(missing)
    # A shell's background job ignores Ctrl-C, and so would what the tests start. It ends the tests, which then say what failed.
    signal.signal(signal.SIGINT, lambda *_: None)
    daemon, ahead, command = start_docker(), None, sys.argv[1:]
    if command[:1] == ["--build-ahead"]:
        command = command[1:]
        niced = ["nice", "-n", "19", sys.executable, "-m", "tests.ahead"]
        ahead = subprocess.Popen(niced, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        return subprocess.run(command, check=False).returncode
    finally:
        if ahead is not None and ahead.poll() is None:
            os.killpg(ahead.pid, signal.SIGTERM)
        if daemon is not None:
            daemon.terminate()
            daemon.wait(timeout=60)


if __name__ == "__main__":
    sys.exit(main())
