"""A real one-node Kubernetes cluster on this machine: its programs built once and kept, started by up.sh, ended by down.sh.

`python -m tests.cluster.cluster up|down` does by hand what the tests' fixture does. As root, on Debian. Where a cluster is at hand,
kind's for example, TORCHRELAY_TEST_KUBECONFIG and TORCHRELAY_TEST_REGISTRY (a registry that its nodes pull from under the name that
this machine pushes to) name it, and nothing is started.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests import machine
from tests.cache import CACHE, build_lock
from tests.cluster import pause_image

HERE = Path(__file__).parent
PROGRAMS = HERE / "programs"
WORK = CACHE / "cluster"
RUN = WORK / "run"
CNI = Path("/usr/lib/cni")
REGISTRY = "127.0.0.1:5001"
UP_S = 300

# program -> Debian package
PACKAGES = {
    "etcd": "etcd-server",
    "containerd": "containerd",
    "ctr": "containerd",
    "runc": "runc",
    "iptables": "iptables",
    "openssl": "openssl",
    "curl": "curl",
    "bc": "bc",
    "docker-registry": "docker-registry",
    "bridge": "containernetworking-plugins",
}


@dataclass(frozen=True)
class Cluster:
    """A running cluster. `registry` is host:port of the registry that its nodes pull from."""

    kubeconfig: Path
    registry: str
    kubectl: str

    def run(self, *arguments: str, stdin: str | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run kubectl against it."""
        command = [self.kubectl, "--kubeconfig", str(self.kubeconfig), *arguments]
        done = subprocess.run(command, input=stdin, text=True, capture_output=True, check=False, timeout=120)
        assert done.returncode == 0 or not check, f"kubectl {' '.join(arguments)} ended with {done.returncode}\n{done.stderr}"
        return done


def version() -> str:
    """Return the version of Kubernetes that is built: `v1.36.3`."""
    found = re.search(r"^\s*k8s\.io/kubernetes (v\S+)$", (PROGRAMS / "go.mod").read_text(), re.MULTILINE)
    assert found is not None, f"{PROGRAMS / 'go.mod'} does not name k8s.io/kubernetes"
    return found[1]


def bin_folder() -> Path:
    """Return the folder of the programs that this version of the module builds."""
    inputs = hashlib.sha256((PROGRAMS / "go.mod").read_bytes() + (PROGRAMS / "go.sum").read_bytes())
    for source in sorted(PROGRAMS.glob("*/main.go")):
        inputs.update(source.read_bytes())
    return CACHE / "bin" / f"kubernetes-{version()}-{inputs.hexdigest()[:12]}"


def build_command(name: str, output: Path) -> list[str]:
    """Return the command that builds one program, with the version set as in Kubernetes' own build."""
    _, minor, _ = version().removeprefix("v").split(".")
    at = "k8s.io/component-base/version"
    flags = f"-s -w -X {at}.gitVersion={version()} -X {at}.gitMajor=1 -X {at}.gitMinor={minor}"
    return ["go", "build", "-trimpath", "-ldflags", flags, "-o", str(output), f"./{name}"]


def ensure(name: str) -> Path:
    """Return a program, built if need be: minutes with a cold cache."""
    program = bin_folder() / name
    with build_lock(bin_folder() / "lock", name):
        if not program.exists():
            if shutil.which("go") is None:
                sys.exit(f"{name} {version()} is built with Go: install Go 1.26 or later, or set TORCHRELAY_TEST_KUBECONFIG")
            sys.stderr.write(f"building {name} {version()} (once)\n")
            made = program.with_name(f"{name}.part")
            environment = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-buildvcs=false"}
            subprocess.run(build_command(name, made), cwd=PROGRAMS, check=True, env=environment, stdout=sys.stderr)
            made.replace(program)
    return program


def ensure_pause() -> None:
    """Create the image that keeps a pod's sandbox open."""
    image = bin_folder() / "pause.tar"
    if not image.exists():
        made = image.with_suffix(".part")
        pause_image.write(ensure("pause"), made)
        made.replace(image)


def kubectl() -> str:
    """Return the kubectl on the PATH, otherwise one that is built."""
    return shutil.which("kubectl") or str(ensure("kubectl"))


def install_missing() -> None:
    """Install the Debian packages that are missing, as the tests' other programs are."""
    places = f"{os.environ['PATH']}:/usr/sbin:/sbin:{CNI}"
    if missing := [program for program in PACKAGES if shutil.which(program, path=places) is None]:
        machine.PROGRAMS.update(PACKAGES)
        machine.install(missing)


def environment() -> dict[str, str]:
    """Return the scripts' environment."""
    path = f"{bin_folder()}:{os.environ['PATH']}:/usr/sbin:/sbin"
    return {**os.environ, "BIN": str(bin_folder()), "RUN": str(RUN), "REGISTRY": str(RUN / "registry"), "PATH": path}


def up() -> Cluster:
    """Build the missing programs and start the cluster; that of a killed run is ended first."""
    if os.geteuid() != 0:
        sys.exit("a cluster is started as root: run as root, or set TORCHRELAY_TEST_KUBECONFIG")
    install_missing()
    ensure("hyperkube")
    ensure_pause()
    control = kubectl()
    down()
    try:
        subprocess.run([HERE / "up.sh"], check=True, env=environment(), timeout=UP_S, stdout=sys.stderr)
    except BaseException:
        for log in sorted(RUN.glob("logs/*.log")):
            sys.stderr.write(f"--- {log.name}\n{log.read_text(errors='replace')[-1500:]}\n")
        down()
        raise
    return Cluster(RUN / "admin.kubeconfig", REGISTRY, control)


def down() -> None:
    """End what `up` started, and nothing else."""
    subprocess.run([HERE / "down.sh"], check=True, env=environment(), timeout=UP_S, stdout=sys.stderr)


@contextmanager
def running() -> Iterator[Cluster]:
    """Provide a cluster until the block ends: the named one, otherwise a new one; only one runs on a machine at a time."""
    if given := os.environ.get("TORCHRELAY_TEST_KUBECONFIG"):
        yield Cluster(Path(given), os.environ.get("TORCHRELAY_TEST_REGISTRY") or REGISTRY, kubectl())
        return
    with build_lock(WORK / "lock", "the one cluster of this machine"):
        cluster = up()
        try:
            yield cluster
        finally:
            down()


if __name__ == "__main__":
    if sys.argv[1:] == ["up"]:
        print(f"export KUBECONFIG={up().kubeconfig}")
    elif sys.argv[1:] == ["down"]:
        down()
    else:
        sys.exit(f"usage: {sys.executable} -m tests.cluster.cluster up|down")
