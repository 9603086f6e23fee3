"""Bring one file here through any trouble that passes: resumed, retried, hashed as it comes, never half-named."""

import errno
import fcntl
import hashlib
import logging
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from io import FileIO
from pathlib import Path
from random import SystemRandom
from typing import IO

from torchrelay.core.errors import Busy, DiskFull, WeightsMissing
from torchrelay.core.files import read_json, write_json
from torchrelay.core.progress import Progress, Task
from torchrelay.core.retry import pause
from torchrelay.weights.sources import BLOCK, Source, Stream, Transient

log = logging.getLogger(__name__)
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class Patience:
    """How long to go on: at most `stall_s` seconds in which fewer than `least_bytes` come."""

    stall_s: float = 180.0
    least_bytes: int = 64 * 1024
    first_wait_s: float = 0.5
    longest_wait_s: float = 20.0


@dataclass(frozen=True)
class Downloaded:
    """A whole file, still under its working name, and what the source said of it."""

    path: Path
    size: int
    sha256: str
    version: str
    promised_sha256: str
    resumed: bool


@dataclass(frozen=True)
class Note:
    """What lies beside a partial file: whose it is and which state of the source it belongs to."""

    uri: str = ""
    validator: str = ""
    version: str = ""
    total: int | None = None
    sha256: str = ""


class Download:
    """One transfer to `<folder>/<key>.part`; a later one goes on from there, in this process or another."""

    def __init__(self, source: Source, uri: str, folder: Path, progress: Progress, patience: Patience) -> None:
        key = hashlib.sha256(uri.encode()).hexdigest()[:32]
        self.source, self.uri, self.progress, self.patience = source, uri, progress, patience
        self.part = folder / f"{key}.part"
        self.note_path = folder / f"{key}.json"
        self._forget()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep a second process off this file; the kernel lets go when this one ends.

        Raises Busy when the other one has not ended within the stall time.
        """
        self.part.parent.mkdir(parents=True, exist_ok=True)
        deadline, told = time.monotonic() + self.patience.stall_s, False
        with self.part.with_suffix(".lock").open("ab") as held:
            while not _taken(held):
                if time.monotonic() > deadline:
                    raise Busy(f"another process is fetching {self.uri}", "run it again when that one has ended")
                if not told:
                    log.info("waiting for another process that fetches %s", self.uri)
                    told = True
                time.sleep(0.2)
            yield

    def discard(self) -> None:
        """Remove the partial file and its note."""
        self.part.unlink(missing_ok=True)
        self.note_path.unlink(missing_ok=True)

    def run(self, judge: Callable[[Stream], None]) -> Downloaded:
        """Bring the whole file here; `judge` sees each stream before anything is taken, and raises to refuse it.

        Raises:
            WeightsMissing: it cannot be had, or too little came for the stall time; what came stays for the next run.
            DiskFull: there is no room for it; what was written is removed.
        """
        self._forget()
        self._resume()
        resumed, tries = self.size > 0, 0
        with ExitStack() as stack:
            while self.size == 0 or self.size != self.note.total:
                before = self.size
                try:
                    with self.source.open_stream(self.uri, self.size, self.note.validator) as stream:
                        judge(stream)
                        self._take(stream, stack)
                    break
                except Transient as passing:
                    if passing.restart:
                        self._restart()
                    tries = 1 if self.size > before else tries + 1
                    self._pause(passing, tries)
        return Downloaded(self.part, self.size, self.digest.hexdigest(), self.note.version, self.note.sha256, resumed)

    def _forget(self) -> None:
        self.note, self.size, self.digest = Note(), 0, hashlib.sha256()
        self.task: Task | None = None
        self.moved_at, self.moved = time.monotonic(), 0

    def _resume(self) -> None:
        """Go on from a partial file, if its note is there; the source is asked to, and begins anew where it cannot tell."""
        found = read_json(self.note_path)
        try:
            note = Note(**found) if isinstance(found, dict) else Note()
        except TypeError:
            note = Note()
        size = self.part.stat().st_size if self.part.exists() else 0
        if size == 0 or note.uri != self.uri or (note.total is not None and size > note.total):
            self.discard()
            return
        with self.part.open("rb", buffering=0) as file:
            while block := file.read(BLOCK):
                self.digest.update(block)
        self.note, self.size = note, size
        log.info("going on with %s after %.1f MB of an earlier run", self.uri, size / 1e6)

    def _take(self, stream: Stream, stack: ExitStack) -> None:
        """Write what the stream gives after what is here."""
        if stream.start != self.size:
            self._restart()
        note = Note(self.uri, stream.validator, stream.version, stream.total, stream.sha256)
        if note != self.note:
            write_json(self.note_path, asdict(note))
            self.note = note
        self._require_room()
        if self.task is None:
            self.task = stack.enter_context(self.progress.task(f"fetch {self.source.basename(self.uri)}", stream.total))
            self.task.advance(self.size)
        with self.part.open("ab", buffering=0) as file:
            for block in stream.blocks:
                self._write(file, block)
                self._require_movement(len(block))
        if stream.total is not None and self.size != stream.total:
            many = self.size > stream.total
            raise Transient(f"{self.uri}: got {self.size} bytes, announced were {stream.total}", restart=many)

    def _write(self, file: FileIO, block: bytes) -> None:
        left = memoryview(block)
        try:
            while left:
                left = left[file.write(left) :]
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            self.discard()
            raise DiskFull(
                f"no room left for the weights after {self.size / 1e6:.1f} MB in {self.part.parent}; "
                "what was written is removed again",
                "free some disk space, or set TORCHRELAY_CACHE to a folder on a larger disk",
            ) from error
        self.size += len(block)
        self.digest.update(block)
        if self.task is not None:
            self.task.advance(len(block))

    def _require_room(self) -> None:
        free = shutil.disk_usage(self.part.parent).free
        if self.note.total is not None and self.note.total - self.size > free:
            raise DiskFull(
                f"the weights need {(self.note.total - self.size) / 1e6:.1f} MB more in {self.part.parent}, "
                f"where {free / 1e6:.1f} MB are free"
                + (f"; the {self.size / 1e6:.1f} MB already there are kept" if self.size else ""),
                "free some disk space, or set TORCHRELAY_CACHE to a folder on a larger disk",
            )

    def _require_movement(self, count: int) -> None:
        """Note what came.

        Raises Transient when a connection lives on but brings next to nothing.
        """
        self.moved += count
        now = time.monotonic()
        if self.moved >= self.patience.least_bytes:
            self.moved_at, self.moved = now, 0
        elif now - self.moved_at > self.patience.stall_s:
            raise Transient(f"{self.uri}: {self.moved} bytes in {now - self.moved_at:.0f} s is too slow")

    def _restart(self) -> None:
        if self.task is not None:
            self.task.advance(-self.size)
        self.discard()
        self.note, self.size, self.digest = Note(), 0, hashlib.sha256()

    def _pause(self, passing: Transient, tries: int) -> None:
        """Wait as long as the server asks, else twice as long as last time, give or take a quarter.

        Raises WeightsMissing when that would outlast the patience.
        """
        backoff = min(self.patience.longest_wait_s, self.patience.first_wait_s * 2 ** (tries - 1))
        wait = passing.retry_after if passing.retry_after is not None else backoff * SystemRandom().uniform(0.75, 1.25)
        if time.monotonic() + wait > self.moved_at + self.patience.stall_s:
            asked = "" if passing.retry_after is None else f" and asks to wait {wait:.0f} s"
            kept = f"; the {self.size / 1e6:.1f} MB that came are kept" if self.size and self.note.validator else ""
            raise WeightsMissing(
                f"weights: {passing}{asked}; gave up at try {tries}{kept}",
                "see that the source is well, then run it again" + (": it goes on from there" if kept else ""),
            ) from passing
        log.info("%s; trying again in %.1f s", passing, wait)
        pause(wait)


def _taken(held: IO[bytes]) -> bool:
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
