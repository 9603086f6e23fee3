"""Doctor's checks of this machine: Python, git and its history, the Docker daemon, disk space."""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from torchrelay.core import paths
from torchrelay.core.errors import TorchrelayError
from torchrelay.core.git import run_git
from torchrelay.docker.daemon import daemon, require_config_ids
from torchrelay.doctor.finding import Finding, Subject, bad, good
from torchrelay.model.weights_lock import read_lock
from torchrelay.weights.sources.file import local_path

OLDEST_PYTHON = (3, 11)
# Copies of the weights that a relay makes: the download, the archive and the bundle, in the cache or beside it. The daemon unpacks
# a layer while it still holds the packed one.
CACHE_FACTOR, DOCKER_FACTOR = 3, 2
RUNTIME_BYTES = {"cpu": 4 << 30, "gpu": 16 << 30}
"""An estimate for building the runtime image: wheels, layers and the result are on disk together."""
LEAST_BYTES = 1 << 30


def python(_subject: Subject) -> Finding:
    """Check that this Python is new enough."""
    version = ".".join(str(part) for part in sys.version_info[:3])
    if sys.version_info >= OLDEST_PYTHON:
        return good("python", version)
    return bad(
        "python", version, f"use Python {OLDEST_PYTHON[0]}.{OLDEST_PYTHON[1]} or later; in a workflow, actions/setup finds one"
    )


def git(subject: Subject) -> Finding:
    """Check that git is installed and has the history that decides which of two commits is newer."""
    if shutil.which("git") is None:
        return bad("git", "git is not on the PATH", "install git: it provides a model's version and the order of deployments")
    folder = subject.options.model_dir
    inside = run_git(["rev-parse", "--is-shallow-repository"], folder)
    if inside.returncode != 0 and "dubious ownership" in inside.stderr:
        return bad("git", "the repository belongs to another user", "run `git config --global --add safe.directory '*'`")
    if inside.returncode != 0:
        return good("git", "the model is not in a git repository: its version is `version:` of model.yaml, or 1.0")
    if inside.stdout.strip() == "true":
        return bad(
            "git",
            "a shallow clone: it does not show whether a commit is older than the live one",
            "set `fetch-depth: 0` for actions/checkout; on your machine run `git fetch --unshallow`",
        )
    count = run_git(["rev-list", "--count", "HEAD"], folder)
    if count.returncode != 0:
        return good("git", "the repository has no commit yet")
    return good("git", f"{count.stdout.strip()} commits of history")


def docker(subject: Subject) -> Finding | None:
    """Check that a Docker daemon responds and identifies images by config digest; the local target needs none."""
    if subject.target == "local":
        return None
    with daemon() as client:
        require_config_ids(client)
        version = client.version()
    if version.get("Os") != "linux":
        return bad("docker", f"the daemon runs {version.get('Os')} containers", "switch Docker to Linux containers")
    return good("docker", f"{version.get('Version')}, API {version.get('ApiVersion')}, {version.get('Arch')}")


def cache(_subject: Subject) -> Finding:
    """Check that the cache folder is writable."""
    folder = paths.cache_dir()
    try:
        existing = _existing(folder)
        file = existing / ".torchrelay-doctor"
        file.touch()
        file.unlink()
    except OSError as error:
        return bad("cache", f"{folder} is not writable: {error.strerror}", "set TORCHRELAY_CACHE to a writable folder")
    return good("cache", str(folder))


def disk(subject: Subject) -> Iterator[Finding]:
    """Check the free space for the weights and everything that is made of them."""
    size = weights_size(subject)
    weights = f"{_size(size)} of weights" if size else "weights of unknown size"
    yield _room(
        "disk", paths.cache_dir(), LEAST_BYTES + CACHE_FACTOR * size, weights, "set TORCHRELAY_CACHE to a folder on a larger disk"
    )
    if subject.target == "local" or (root := _docker_root()) is None:
        return
    device = subject.model.device if subject.model else "cpu"
    needed = RUNTIME_BYTES[device] + DOCKER_FACTOR * size
    yield _room(
        "disk of docker", root, needed, f"the runtime image and {weights}", "run `docker system prune`, or move its data-root"
    )


def weights_size(subject: Subject) -> int:
    """Return the size of the model's weights in bytes, from the file or weights.lock; 0 if unknown."""
    if subject.model is None or "weights" in subject.mistakes:
        return 0
    uri, folder = subject.model.weights.uri, subject.options.model_dir
    try:
        if subject.model.weights.scheme == "file":
            return local_path(uri, folder).stat().st_size
        locked = read_lock(folder)
    except (OSError, TorchrelayError, ValueError):
        return 0
    return locked.size if locked is not None and locked.covers(uri) else 0


def _room(name: str, folder: Path, needed: int, why: str, fix: str) -> Finding:
    try:
        existing = _existing(folder)
        free = shutil.disk_usage(existing).free
    except OSError as error:
        return bad(name, f"{folder}: {error.strerror}", fix)
    detail = f"{_size(free)} free in {existing}, {_size(needed)} needed for {why}"
    return good(name, detail) if free >= needed else bad(name, detail, f"free some space, or {fix}")


def _docker_root() -> Path | None:
    """Return the folder of the daemon's images; None if it is not visible on this machine. The docker check reports why."""
    try:
        with daemon() as client:
            root = Path(str(client.info().get("DockerRootDir", "")))
    except TorchrelayError:
        return None
    try:
        return root if root.is_absolute() and root.is_dir() else None
    except OSError:
        return None


def _existing(folder: Path) -> Path:
    return next(one for one in (folder, *folder.absolute().parents) if one.is_dir())


def _size(size: int) -> str:
    return f"{size / (1 << 30):.1f} GiB" if size >= 1 << 29 else f"{size / (1 << 20):.1f} MiB"
