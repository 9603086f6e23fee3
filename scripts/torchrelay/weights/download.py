"""Downloads one file: resumes a part, retries what may pass, and hashes the bytes as they arrive.

The waits are those of `core.retry.Policy`. The loop is not `core.retry.retrying`, because it ends after a time without progress,
not after a number of attempts: a transfer that breaks a hundred times and advances each time is finished.
"""

import errno
import hashlib
import logging
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from io import FileIO
from pathlib import Path

from torchrelay.core.errors import DiskFull, WeightsMissing
from torchrelay.core.files import read_json, write_json
from torchrelay.core.locks import LONGEST_S, exclusive
from torchrelay.core.progress import Progress, Task
from torchrelay.core.retry import Policy, pause
from torchrelay.weights.sources import BLOCK, Stream, Transient, WeightsSource

log = logging.getLogger(__name__)
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class Patience:
    """How long a download continues: it ends after `stall_s` seconds in which fewer than `least_bytes` bytes arrive."""

    stall_s: float = 180.0
    least_bytes: int = 64 * 1024
    first_wait_s: float = 0.5
    longest_wait_s: float = 20.0


@dataclass(frozen=True)
class Downloaded:
    """A whole file, still under its working name, with the source's version and promised digest."""

    path: Path
    size: int
    sha256: str
    version: str
    promised_sha256: str
    resumed: bool


@dataclass(frozen=True)
class PartNote:
    """The file beside a part: the address it comes from and the state of the source it belongs to."""

    uri: str = ""
    validator: str = ""
    version: str = ""
    total: int | None = None
    sha256: str = ""


class Download:
    """One transfer to `<folder>/<key>.part`; a later one continues it, in this process or another."""

    def __init__(self, source: WeightsSource, uri: str, folder: Path, progress: Progress, patience: Patience) -> None:
        key = hashlib.sha256(uri.encode()).hexdigest()[:32]
        self.source, self.uri, self.progress, self.patience = source, uri, progress, patience
        self.policy = Policy(first_wait_s=patience.first_wait_s, longest_wait_s=patience.longest_wait_s)
        self.part = folder / f"{key}.part"
        self.note_path = folder / f"{key}.json"
        self._reset()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the lock of this file, so that one process at a time downloads it.

        Raises Busy when another process holds it for longer than LONGEST_S.
        """
        lock, busy = self.part.with_suffix(".lock"), f"another process ({{}}) is fetching {self.uri}"
        with exclusive(lock, busy, LONGEST_S):
            yield

    def discard(self) -> None:
        """Remove the partial file and its note."""
        self.part.unlink(missing_ok=True)
        self.note_path.unlink(missing_ok=True)

    def run(self, check: Callable[[Stream], None]) -> Downloaded:
        """Download the whole file; `check` is called with each stream before anything is read, and raises to refuse it.

        Raises:
            WeightsMissing: it is unavailable, or too few bytes arrived in the stall time; the part stays for the next run.
            DiskFull: there is no room for it; the part is removed.
        """
        self._reset()
        self._resume()
        resumed, attempts = self.size > 0, 0
        with ExitStack() as stack:
            while self.size == 0 or self.size != self.note.total:
                before = self.size
                try:
                    with self.source.open_stream(self.uri, self.size, self.note.validator) as stream:
                        check(stream)
                        self._append(stream, stack)
                    break
                except Transient as failure:
                    if failure.restart:
                        self._restart()
                    attempts = 1 if self.size > before else attempts + 1
                    self._pause(failure, attempts)
        return Downloaded(self.part, self.size, self.digest.hexdigest(), self.note.version, self.note.sha256, resumed)

    def _reset(self) -> None:
        self.note, self.size, self.digest = PartNote(), 0, hashlib.sha256()
        self.task: Task | None = None
        self.moved_at, self.moved = time.monotonic(), 0

    def _resume(self) -> None:
        """Continue a part if its note is there; a source that cannot resume that state sends the file from the beginning."""
        document = read_json(self.note_path)
        try:
            note = PartNote(**document) if isinstance(document, dict) else PartNote()
        except TypeError:
            note = PartNote()
        size = self.part.stat().st_size if self.part.exists() else 0
        if size == 0 or note.uri != self.uri or (note.total is not None and size > note.total):
            self.discard()
            return
        with self.part.open("rb", buffering=0) as file:
            while block := file.read(BLOCK):
                self.digest.update(block)
        self.note, self.size = note, size
        log.info("continuing %s after %.1f MB of an earlier run", self.uri, size / 1e6)

    def _append(self, stream: Stream, stack: ExitStack) -> None:
        """Append the stream to the part."""
        if stream.start != self.size:
            self._restart()
        note = PartNote(self.uri, stream.validator, stream.version, stream.total, stream.sha256)
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
            raise Transient(f"{self.uri}: got {self.size} of {stream.total} bytes", restart=self.size > stream.total)

    def _write(self, file: FileIO, block: bytes) -> None:
        rest = memoryview(block)
        try:
            while rest:
                rest = rest[file.write(rest) :]
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            self.discard()
            raise DiskFull(
                f"no room left for the weights after {self.size / 1e6:.1f} MB in {self.part.parent}; the part is removed",
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
                f"where {free / 1e6:.1f} MB are free" + (f"; the {self.size / 1e6:.1f} MB on disk are kept" if self.size else ""),
                "free some disk space, or set TORCHRELAY_CACHE to a folder on a larger disk",
            )

    def _require_movement(self, count: int) -> None:
        """Count the bytes that arrived.

        Raises Transient when a connection stays open but delivers almost nothing.
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
        self.note, self.size, self.digest = PartNote(), 0, hashlib.sha256()

    def _pause(self, failure: Transient, attempts: int) -> None:
        """Wait before the next attempt.

        Raises WeightsMissing when the wait would exceed the patience.
        """
        wait = failure.retry_after_s
        if wait is None:
            wait = self.policy.wait_s(attempts, None)
        if time.monotonic() + wait > self.moved_at + self.patience.stall_s:
            asked = "" if failure.retry_after_s is None else f" and asks to wait {wait:.0f} s"
            resumable = bool(self.size and self.note.validator)
            raise WeightsMissing(
                f"weights: {failure}{asked}; gave up at attempt {attempts}"
                + (f"; the {self.size / 1e6:.1f} MB received are kept" if resumable else ""),
                "check that the weights' host is reachable, then run it again" + (": it continues from there" if resumable else ""),
            ) from failure
        log.info("%s; trying again in %.1f s", failure, wait)
        pause(wait)
