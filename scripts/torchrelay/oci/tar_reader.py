"""Reads an untrusted tar as a stream, once, in bounded memory: files, folders and links; everything else is refused.

It reads what Docker and Python's `tarfile` write, which is ustar with PAX headers (POSIX.1-2001). The standard library's reader
is not used: it holds headers of any length in memory, fills sparse files with zeros, and skips headers that it cannot read.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

BLOCK = 512
MAGIC = b"ustar\x0000"
PAX_LIMIT = 64 << 10  # bytes of one PAX header
CHUNK = 1 << 20  # bytes read at once
NUMBER = re.compile(rb" *([0-7]{1,12})[ \x00]*")
RECORD = re.compile(rb"([1-9][0-9]{0,5}) ([^=\n\x00]{1,200})=")
CHECKSUM = slice(148, 156)


class Kind(StrEnum):
    """The kinds of entries that are read; the value is the word for it in messages."""

    FILE = "file"
    FOLDER = "folder"
    SYMLINK = "symbolic link"
    HARDLINK = "hard link"


KINDS = {b"0": Kind.FILE, b"\0": Kind.FILE, b"5": Kind.FOLDER, b"2": Kind.SYMLINK, b"1": Kind.HARDLINK}
REFUSED_KINDS = {b"3": "a device", b"4": "a device", b"6": "a named pipe"}
PAX = b"x"


class BadTar(Exception):
    """The tar is damaged, or has an entry that is not read: `name` is empty when the entry has no readable name."""

    def __init__(self, problem: str, name: str = "") -> None:
        super().__init__(f"{name}: {problem}" if name else problem)
        self.problem = problem
        self.name = name


@dataclass(frozen=True)
class TarEntry:
    """One entry: its name as written, its kind, its length in bytes, and the target of a link."""

    name: str
    kind: Kind
    size: int
    target: str
    executable: bool


class _Source:
    """Chunks as a stream of bytes."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._chunk = b""
        self._position = 0

    def at_most(self, size: int) -> bytes:
        """Return 1 to `size` bytes, none at the end."""
        while self._position == len(self._chunk):
            chunk = next(self._chunks, None)
            if chunk is None:
                return b""
            self._chunk, self._position = chunk, 0
        piece = self._chunk[self._position : self._position + size]
        self._position += len(piece)
        return piece

    def pieces(self, size: int) -> Iterator[bytes]:
        """Yield exactly `size` bytes in pieces. Raises BadTar at an early end."""
        while size:
            piece = self.at_most(min(size, CHUNK))
            if not piece:
                raise BadTar("the tar ends early")
            size -= len(piece)
            yield piece

    def exactly(self, size: int) -> bytes:
        """Return `size` bytes. Raises BadTar at an early end."""
        return b"".join(self.pieces(size))


def read_tar(chunks: Iterator[bytes]) -> Iterator[tuple[TarEntry, Iterator[bytes]]]:
    """Yield each entry with the pieces of its content; content that the caller leaves is skipped.

    Raises BadTar, also while the content is read.
    """
    source = _Source(chunks)
    records: dict[str, str] | None = None
    while any(header := source.exactly(BLOCK)):
        kind, size = _checked(header)
        if kind == PAX:
            if records is not None:
                raise BadTar("two PAX headers follow each other")
            if size > PAX_LIMIT:
                raise BadTar(f"a PAX header of {size} bytes; at most {PAX_LIMIT} are read")
            records = _pax_records(source.exactly(size))
            source.exactly(-size % BLOCK)
            continue
        entry = _entry(header, kind, size, records or {})
        records = None
        content = source.pieces(entry.size)
        yield entry, content
        for _ in content:
            pass
        source.exactly(-entry.size % BLOCK)
    if records is not None:
        raise BadTar("a PAX header without an entry")


def _checked(header: bytes) -> tuple[bytes, int]:
    """Return kind and size of a header whose checksum is right."""
    if header[257:265] != MAGIC:
        raise BadTar("an entry is not in the POSIX format")
    total = sum(header) - sum(header[CHECKSUM]) + 8 * ord(" ")
    if _number(header[CHECKSUM]) != total:
        raise BadTar("the checksum of a header is wrong")
    return header[156:157], _number(header[124:136])


def _number(field: bytes) -> int:
    match = NUMBER.fullmatch(field)
    if match is None:
        raise BadTar("a number in a header is not octal")
    return int(match[1], 8)


def _text(field: bytes) -> str:
    try:
        text = field.decode("utf-8")
    except UnicodeDecodeError:
        raise BadTar("a name is not UTF-8", field.decode("utf-8", "backslashreplace")) from None
    if "\0" in text:
        raise BadTar("a name contains a zero byte", text)
    return text


def _pax_records(data: bytes) -> dict[str, str]:
    """Parse `LENGTH KEYWORD=VALUE` lines; only those about name, link and size are kept."""
    records: dict[str, str] = {}
    position = 0
    while position < len(data):
        match = RECORD.match(data, position)
        end = position + int(match[1]) if match else 0
        if match is None or not match.end() < end <= len(data) or data[end - 1 : end] != b"\n":
            raise BadTar("a PAX header is damaged")
        keyword = match[2]
        if keyword.startswith(b"GNU.sparse"):
            raise BadTar("a sparse file")
        if keyword in (b"path", b"linkpath", b"size"):
            records[keyword.decode()] = _text(data[match.end() : end - 1])
        position = end
    return records


def _entry(header: bytes, kind: bytes, size: int, records: dict[str, str]) -> TarEntry:
    name, prefix = (header[at].partition(b"\0")[0] for at in (slice(0, 100), slice(345, 500)))
    path = records.get("path") or _text(prefix + b"/" + name if prefix else name)
    if kind not in KINDS:
        raise BadTar(f"is {REFUSED_KINDS.get(kind, 'an entry of an unknown kind')}", path)
    if text := records.get("size"):
        if not re.fullmatch(r"[0-9]{1,15}", text):
            raise BadTar("its size is not a number", path)
        size = int(text)
    if size and KINDS[kind] is not Kind.FILE:
        raise BadTar(f"is a {KINDS[kind]} with content", path)
    target = records.get("linkpath") or _text(header[157:257].partition(b"\0")[0])
    return TarEntry(path, KINDS[kind], size, target, bool(_number(header[100:108]) & 0o100))
