"""What doctor looks at on this machine: Python, git and its history, the Docker daemon, disk space."""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from torchrelay.core import paths
from torchrelay.core.errors import ModelInvalid
from torchrelay.doctor.finding import Check, Subject, bad, good

OLDEST_PYTHON = (3, 11)
# Copies of the weights that a relay leaves or makes: the download, the archive and the bundle, in or beside the cache. The daemon
# unpacks a layer while it still has the one that was sent.
CACHE_FACTOR, DOCKER_FACTOR = 3, 2
RUNTIME_BYTES = {"cpu": 4 << 30, "gpu": 16 << 30}
"""Reckoned for the runtime image while it is built: wheels, layers and the result lie there together."""
LEAST_BYTES = 1 << 30


def python(_subject: Subject) -> Check:
    """See that this Python is new enough."""
    version = ".".join(str(part) for part in sys.version_info[:3])
    if sys.version_info >= OLDEST_PYTHON:
        return good("python", version)
    return bad(
        "python", version, f"use Python {OLDEST_PYTHON[0]}.{OLDEST_PYTHON[1]} or later; in a workflow actions/setup brings it"
    )


def git(subject: Subject) -> Check:
    """See that git is there and has the history that tells an older commit from a newer one."""
    from torchrelay.core.git import run_git  # noqa: PLC0415 -- it imports model

    if shutil.which("git") is None:
        return bad("git", "not on the PATH", "install git: a model's version and the order of deploys come from it")
    folder = subject.asked.model_dir
    inside = run_git(["rev-parse", "--is-shallow-repository"], folder)
    if inside.returncode != 0 and "dubious ownership" in inside.stderr:
        return bad("git", "the repository belongs to another user", "run `git config --global --add safe.directory '*'`")
    if inside.returncode != 0:
        return good("git", "the model lies in no repository: its version is `version:` of model.yaml, or 1.0")
    if inside.stdout.strip() == "true":
        return bad(
            "git",
            "a shallow clone: whether a commit is older than the live one cannot be told",
            "give actions/checkout `with: {fetch-depth: 0}`; here, `git fetch --unshallow`",
        )
    count = run_git(["rev-list", "--count", "HEAD"], folder)
    if count.returncode != 0:
        return good("git", "a repository without a commit")
    return good("git", f"{count.stdout.strip()} commits of history")


def docker(subject: Subject) -> Check | None:
    """See that a daemon answers that names images as the verdict does; the local target needs none."""
    from torchrelay.docker.daemon import daemon, require_config_ids  # noqa: PLC0415 -- docker is slow to import

    if subject.target == "local":
        return None
    with daemon() as client:
        require_config_ids(client)
        told = client.version()
    if told.get("Os") != "linux":
        return bad("docker", f"runs {told.get('Os')} containers", "switch Docker to Linux containers")
    return good("docker", f"{told.get('Version')}, API {told.get('ApiVersion')}, {told.get('Arch')}")


def cache(_subject: Subject) -> Check:
    """See that the cache can be written."""
    folder = paths.cache_dir()
    existing = _existing(folder)
    try:
        probe = existing / ".torchrelay-doctor"
        probe.touch()
        probe.unlink()
    except OSError as error:
        return bad("cache", f"{folder} cannot be written: {error.strerror}", "set TORCHRELAY_CACHE to a folder that can")
    return good("cache", str(folder))


def disk(subject: Subject) -> Iterator[Check]:
    """See that the weights, and all that is made of them, find room."""
    size = weights_size(subject)
    told = f"{_size(size)} of weights" if size else "weights of unknown size"
    yield _room(
        "disk", paths.cache_dir(), LEAST_BYTES + CACHE_FACTOR * size, told, "set TORCHRELAY_CACHE to a folder on a larger disk"
    )
    if subject.target == "local" or (root := _docker_root()) is None:
        return
    device = subject.model.device if subject.model else "cpu"
    needed = RUNTIME_BYTES[device] + DOCKER_FACTOR * size
    yield _room("disk of docker", root, needed, f"the runtime image and {told}", "run `docker system prune`, or move its data-root")


def weights_size(subject: Subject) -> int:
    """Return the bytes that model.yaml's weights have as far as this machine knows; 0 when it does not."""
    from torchrelay.model.weights_lock import read_lock  # noqa: PLC0415 -- as in docker
    from torchrelay.weights.sources.file import local_path  # noqa: PLC0415

    if subject.model is None:
        return 0
    uri, folder = subject.model.weights.uri, subject.asked.model_dir
    try:
        if subject.model.weights.scheme == "file":
            return local_path(uri, folder).stat().st_size
        locked = read_lock(folder)
    except (OSError, ModelInvalid, ValueError):
        return 0
    return locked.size if locked is not None and locked.source == uri else 0


def _room(name: str, folder: Path, needed: int, why: str, fix: str) -> Check:
    existing = _existing(folder)
    free = shutil.disk_usage(existing).free
    said = f"{_size(free)} free in {existing}, {_size(needed)} wanted for {why}"
    return good(name, said) if free >= needed else bad(name, said, f"free some space, or {fix}")


def _docker_root() -> Path | None:
    """Return where the daemon keeps images, when that is on this machine and can be seen; its own check says why it is not."""
    from torchrelay.core.errors import TorchrelayError  # noqa: PLC0415
    from torchrelay.docker.daemon import daemon  # noqa: PLC0415 -- as in docker

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
