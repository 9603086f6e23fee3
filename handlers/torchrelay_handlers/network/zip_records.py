"""The records of a zip file as they are on disk: checked before torch maps them into memory, where it reads no header again.

torch.load(mmap=True) takes the bytes at a record's offset as they are: compressed ones, or those of the next record where one is
too short. Format: https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT.
Imports nothing of this package: the command reads it too.
"""

import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

ALIGNMENT = 16  # bytes: the largest element of a tensor, complex128; torch.save itself aligns to 64
_LOCAL = struct.Struct("<4sHHHHHIIIHH")
_END = struct.Struct("<4sHHHHIIH")
_CHUNK = 1 << 20
_ENCRYPTED, _SIZES_FOLLOW = 0x1, 0x8
_ZIP64 = 0xFFFFFFFF


class DamagedZip(ValueError):
    """A record is not what the directory at the end of the file says; the message names it."""


@dataclass(frozen=True, slots=True)
class Record:
    """One record: where its bytes begin, how many they are in the file and unpacked, and its recorded CRC-32."""

    name: str
    offset: int
    packed: int
    size: int
    crc: int
    stored: bool

    @property
    def mappable(self) -> bool:
        """Whether its bytes can be used where they are."""
        return self.stored and (self.offset % ALIGNMENT == 0 or self.size == 0)


def read(path: Path) -> list[Record]:
    """Every record, in the order of the file; contents are not read.

    Raises:
        DamagedZip: a record is encrypted, out of bounds, overlaps another, has the name of another, or its header disagrees.
    """
    try:
        with zipfile.ZipFile(path) as archive, path.open("rb") as file:
            _require_end(file)
            records = [_record(file, info) for info in sorted(archive.infolist(), key=lambda info: info.header_offset)]
            starts = [info.header_offset for info in archive.infolist()]
            limits = [*sorted(starts)[1:], archive.start_dir]
    except (zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, struct.error, ValueError) as error:
        raise error if isinstance(error, DamagedZip) else DamagedZip(str(error)) from error
    if records and min(starts) != 0:
        raise DamagedZip("bytes before the first record")
    seen: set[str] = set()
    for record, limit in zip(records, limits, strict=True):
        if record.offset + record.packed > limit:
            raise DamagedZip(f"record {record.name!r} reaches into what follows it")
        if record.name.casefold() in seen:  # torch finds records whatever their case
            raise DamagedZip(f"record {record.name!r} is there twice, or differs from another only in case")
        seen.add(record.name.casefold())
    return records


def _require_end(file: BinaryIO) -> None:
    size = file.seek(0, 2)
    file.seek(max(0, size - _END.size))
    end = file.read(_END.size)
    if len(end) < _END.size or not end.startswith(b"PK\x05\x06") or _END.unpack(end)[-1] != 0:
        raise DamagedZip("bytes after its end")


def _record(file: BinaryIO, info: zipfile.ZipInfo) -> Record:
    name = info.filename
    file.seek(info.header_offset)
    header = file.read(_LOCAL.size)
    if len(header) < _LOCAL.size or not header.startswith(b"PK\x03\x04"):
        raise DamagedZip(f"record {name!r} has no header where the directory says")
    _, _, flags, method, _, _, crc, packed, size, name_length, extra_length = _LOCAL.unpack(header)
    if info.flag_bits & _ENCRYPTED or flags & _ENCRYPTED:
        raise DamagedZip(f"record {name!r} is encrypted")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise DamagedZip(f"record {name!r} is compressed in a way that torch does not read")
    stored = info.compress_type == zipfile.ZIP_STORED
    agrees = method == info.compress_type and file.read(name_length) == info.orig_filename.encode(
        "utf-8" if info.flag_bits & 0x800 else "cp437"
    )
    if not flags & _SIZES_FOLLOW:
        agrees = agrees and crc == info.CRC
        agrees = agrees and packed in (info.compress_size, _ZIP64) and size in (info.file_size, _ZIP64)
    if not agrees or (stored and info.compress_size != info.file_size):
        raise DamagedZip(f"the header of record {name!r} disagrees with the directory")
    offset = info.header_offset + _LOCAL.size + name_length + extra_length
    return Record(name, offset, info.compress_size, info.file_size, info.CRC, stored)


def content(path: Path, record: Record) -> bytes:
    """The unpacked bytes of one record, whatever its checksum.

    Raises:
        DamagedZip: they are not as many as the directory says.
    """
    with path.open("rb") as file:
        file.seek(record.offset)
        packed = file.read(record.packed)
    try:
        unpacked = packed if record.stored else zlib.decompressobj(-15).decompress(packed, record.size + 1)
    except zlib.error as error:
        raise DamagedZip(f"record {record.name!r} cannot be unpacked") from error
    if len(unpacked) != record.size:
        raise DamagedZip(f"record {record.name!r} does not unpack to {record.size} bytes")
    return unpacked


def require_contents(path: Path) -> None:
    """Read every byte once and compare the checksums. A zero is none: torch.serialization.set_crc32_options(False) writes it.

    Raises:
        DamagedZip: see `read`; or a record's bytes are not those that were written.
    """
    records = read(path)
    with path.open("rb") as file:
        for record in records:
            if record.crc:
                size, crc = _checksum(file, record)
                if (size, crc) != (record.size, record.crc):
                    raise DamagedZip(f"the bytes of record {record.name!r} have changed: its checksum is wrong")


def _checksum(file: BinaryIO, record: Record) -> tuple[int, int]:
    """The unpacked size and CRC-32; never unpacks more than one byte beyond the declared size."""
    file.seek(record.offset)
    unpacker = None if record.stored else zlib.decompressobj(-15)
    left, size, crc = record.packed, 0, 0
    try:
        while left > 0 and (packed := file.read(min(_CHUNK, left))):
            left -= len(packed)
            while packed:
                piece = packed if unpacker is None else unpacker.decompress(packed, _CHUNK)
                size, crc = size + len(piece), zlib.crc32(piece, crc)
                packed = b"" if unpacker is None else unpacker.unconsumed_tail
                if size > record.size:
                    return size, crc
        rest = unpacker.flush() if unpacker is not None else b""
    except zlib.error:
        return -1, 0
    return size + len(rest), zlib.crc32(rest, crc)
