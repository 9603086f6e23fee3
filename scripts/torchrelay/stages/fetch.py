"""Fetch: downloads the weights, checks their digest, caches them by it, and requires the bytes that weights.lock records."""

import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torchrelay.core.digests import DigestMemo
from torchrelay.core.errors import UnsafeName, WeightsChanged, WeightsMissing
from torchrelay.core.progress import Progress
from torchrelay.core.workspace import Workspace
from torchrelay.model.weights_lock import LOCK_NAME, Locked, read_lock, read_lock_quietly, write_lock
from torchrelay.weights.checks import refuse_stand_ins
from torchrelay.weights.download import Download, Downloaded, Patience
from torchrelay.weights.scan import refuse_hostile
from torchrelay.weights.sources import Stream, scheme_of, source_of
from torchrelay.weights.sources.file import local_path

if TYPE_CHECKING:
    from torchrelay.model.model import Model

log = logging.getLogger(__name__)
PATIENCE = Patience()


@dataclass(frozen=True)
class Fetched:
    """The weights on this machine. `cached`: nothing had to be transferred."""

    path: Path
    size: int
    sha256: str
    source: str
    cached: bool


@dataclass(frozen=True)
class Expected:
    """The digest and size that the bytes must have; empty and None where unknown. `by` names the file that says so."""

    sha256: str = ""
    size: int | None = None
    by: str = ""


def run(
    model_dir: Path,
    model: "Model",
    *,
    cache: Path,
    progress: Progress,
    update_lock: bool = False,
    patience: Patience = PATIENCE,
) -> Fetched:
    """Download a model's weights and record them in weights.lock.

    A file is read in place. `update_lock` accepts the bytes that the address returns now, whatever was locked before.

    Raises:
        WeightsMissing: they cannot be downloaded from there.
        WeightsChanged: they differ from the declared or locked bytes.
        DiskFull, Busy, ModelInvalid (an unreadable weights.lock): see their docstrings.
    """
    uri = model.weights.uri
    locked = read_lock_quietly(model_dir) if update_lock else read_lock(model_dir)
    expected = expectation(uri, model.weights.sha256 or "", None if update_lock else locked)
    workspace = Workspace(model_dir)
    workspace.ensure()
    memo = DigestMemo(workspace.root / "digests.json")
    if scheme_of(uri) == "file":
        fetched, version = _in_place(uri, model_dir, memo, progress), ""
    elif hit := _cached(uri, expected, cache, memo):
        fetched, version = hit, locked.version if locked and locked.sha256 == hit.sha256 else ""
    else:
        fetched, version = _download(uri, expected, cache, progress, patience)
        memo.remember(fetched.path, fetched.sha256)
    require(uri, expected, fetched.sha256)
    if model.handler_file is None:  # a handler.py is code, and may load files of any kind
        refuse_hostile(uri, fetched.path)
    write_lock(model_dir, Locked(uri, fetched.size, fetched.sha256, version))
    return fetched


def planned(model_dir: Path, model: "Model", *, cache: Path) -> str:
    """Return what `fetch` would do, for --dry-run."""
    uri = model.weights.uri
    if scheme_of(uri) == "file":
        return f"read {local_path(uri, model_dir)} in place"
    name = source_of(uri).basename(uri)
    expected = expectation(uri, model.weights.sha256 or "", read_lock(model_dir))
    if expected.sha256 and (cached := place(cache, expected.sha256, name)).is_file():
        return f"use {cached}, fetched before"
    return f"fetch {uri} into {cache / 'weights'}" + (f", expecting sha256 {expected.sha256}" if expected.sha256 else "")


def expectation(uri: str, declared: str, locked: Locked | None) -> Expected:
    """Return the expected bytes: the sha256 in model.yaml wins, then the lock, if it is for this address."""
    entry = locked if locked is not None and locked.covers(uri) else None
    if declared:
        same = entry is not None and entry.sha256 == declared.lower()
        return Expected(declared.lower(), entry.size if entry and same else None, "model.yaml")
    if entry is not None:
        return Expected(entry.sha256, entry.size, LOCK_NAME)
    return Expected()


def place(cache: Path, sha256: str, name: str) -> Path:
    """Return the path of a file in the cache."""
    return cache / "weights" / sha256 / name


def require(uri: str, expected: Expected, sha256: str) -> None:
    """Check bytes against the expected digest.

    Raises WeightsChanged.
    """
    if not expected.sha256 or expected.sha256 == sha256:
        return
    if expected.by == LOCK_NAME:
        fix = "if the change is intended, run `torchrelay fetch --update-lock` and commit weights.lock"
    else:
        fix = f"if these are the right weights, set `weights: {{uri: {uri}, sha256: {sha256}}}` in model.yaml"
    raise WeightsChanged(f"weights: {uri}: sha256 is {sha256}, but {expected.by} says {expected.sha256}", fix)


def _in_place(uri: str, model_dir: Path, memo: DigestMemo, progress: Progress) -> Fetched:
    path = local_path(uri, model_dir)
    refuse_stand_ins(uri, path)
    size = path.stat().st_size
    try:
        with progress.task(f"hash {path.name}", size) as task:
            return Fetched(path, size, memo.sha256_of(path, task.advance), uri, cached=True)
    except OSError as error:
        raise WeightsMissing(f"weights: {path}: {error.strerror}", "check the disk: the file is damaged") from error


def _cached(uri: str, expected: Expected, cache: Path, memo: DigestMemo) -> Fetched | None:
    """Return the file fetched before, under any name; a damaged one is removed."""
    path = _named(uri, cache, expected.sha256 or "-")
    if not expected.sha256 or not path.parent.is_dir():
        return None
    if not path.is_file():
        for other in sorted(path.parent.iterdir()):
            if not other.name.startswith("."):
                _share(other, path)
                break
        else:
            return None
    if memo.sha256_of(path) == expected.sha256:
        return Fetched(path, path.stat().st_size, expected.sha256, uri, cached=True)
    log.warning("%s is damaged: fetching it again", path)
    path.unlink()
    return None


def _download(uri: str, expected: Expected, cache: Path, progress: Progress, patience: Patience) -> tuple[Fetched, str]:
    source = source_of(uri)
    _named(uri, cache, "-")  # an impossible name is rejected before anything is transferred
    download = Download(source, uri, cache / "weights" / "partial", progress, patience)

    def judge(stream: Stream) -> None:
        if stream.sha256:
            require(uri, expected, stream.sha256)
        if expected.size is not None and stream.total is not None and stream.total != expected.size:
            raise WeightsChanged(
                f"weights: {uri}: {stream.total} bytes now, but {LOCK_NAME} says {expected.size}",
                "if the change is intended, run `torchrelay fetch --update-lock` and commit weights.lock",
            )

    with download.alone():
        done = download.run(judge)
        if done.resumed and not _sound(done, expected):
            log.warning("%s: the part from an earlier run does not match; fetching all of it again", uri)
            download.discard()
            done = download.run(judge)
        try:
            refuse_stand_ins(uri, done.path)
            _require_promised(uri, done)
            require(uri, expected, done.sha256)
        except (WeightsMissing, WeightsChanged):
            download.discard()
            raise
        path = _named(uri, cache, done.sha256)
        path.parent.mkdir(parents=True, exist_ok=True)
        done.path.replace(path)
        download.discard()
    return Fetched(path, done.size, done.sha256, uri, cached=False), done.version


def _require_promised(uri: str, done: Downloaded) -> None:
    if done.promised_sha256 not in ("", done.sha256):
        raise WeightsMissing(
            f"weights: {uri}: damaged on the way: sha256 is {done.sha256}, but the source says {done.promised_sha256}",
            "run it again; if it fails again, a proxy in between changes the bytes",
        )


def _sound(done: Downloaded, expected: Expected) -> bool:
    return all(done.sha256 == digest for digest in (done.promised_sha256, expected.sha256) if digest)


def _named(uri: str, cache: Path, sha256: str) -> Path:
    """Return the cached path of a URI's file.

    Raises UnsafeName when its last part is not a plain file name.
    """
    name = source_of(uri).basename(uri)
    if name in (".", "..") or "/" in name or "\\" in name or name.startswith(".") or not name.isprintable():
        raise UnsafeName(f"weights: {uri}: {name!r} is not a plain file name", "rename the file at its source")
    return place(cache, sha256, name)


def _share(existing: Path, path: Path) -> None:
    """Give a cached file a second name."""
    try:
        os.link(existing, path)
    except OSError:
        shutil.copyfile(existing, path)
