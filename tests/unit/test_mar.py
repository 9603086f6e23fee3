"""The archive's bytes depend on its inputs alone, and hostile archives are refused before anything is written."""

import io
import os
import stat
import struct
import time
import zipfile
import zlib
from pathlib import Path

import pytest

from torchrelay.core.errors import ArchiveInvalid
from torchrelay.core.progress import Quiet
from torchrelay.image import mar

ENTRIES = [mar.Entry("model.pt", b"weights" * 999), mar.Entry("MAR-INF/MANIFEST.json", b"{}"), mar.Entry("a/b.py", b"x = 1\n")]


def write(path: Path, entries: list[mar.Entry]) -> dict[str, mar.Stored]:
    with Quiet().task("", None) as task:
        return mar.write_mar(path, entries, task)


def test_same_inputs_give_the_same_bytes_in_any_order_place_and_time(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    source = tmp_path / "b.py"
    source.write_bytes(b"x = 1\n")
    write(tmp_path / "one" / "m.mar", ENTRIES)
    os.utime(source, (time.time() + 86400 * 400,) * 2)
    write(tmp_path / "two" / "m.mar", [ENTRIES[0], mar.Entry("a/b.py", source), ENTRIES[1]])
    assert (tmp_path / "one" / "m.mar").read_bytes() == (tmp_path / "two" / "m.mar").read_bytes()


def test_entries_are_stored_at_the_recorded_offsets(tmp_path: Path) -> None:
    path = tmp_path / "m.mar"
    stored = write(path, ENTRIES)
    with zipfile.ZipFile(path) as archive:
        assert [info.filename for info in archive.infolist()] == sorted(entry.name for entry in ENTRIES)
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}
    data = path.read_bytes()
    for entry in ENTRIES:
        place = stored[entry.name]
        assert data[place.offset : place.offset + place.size] == entry.source


def test_a_failed_write_leaves_the_old_archive_and_no_scraps(tmp_path: Path) -> None:
    path = tmp_path / "m.mar"
    write(path, ENTRIES)
    before = path.read_bytes()
    with pytest.raises(FileNotFoundError):
        write(path, [*ENTRIES, mar.Entry("gone.py", tmp_path / "gone.py")])
    assert path.read_bytes() == before
    assert [one.name for one in tmp_path.iterdir()] == ["m.mar"]


def test_tgz_and_folder_hold_the_same_files(tmp_path: Path) -> None:
    with Quiet().task("", None) as task:
        mar.write_tgz(tmp_path / "a.tar.gz", "m", ENTRIES, task)
        mar.write_tgz(tmp_path / "b.tar.gz", "m", ENTRIES[::-1], task)
        mar.write_folder(tmp_path / "folder", ENTRIES, task)
    assert (tmp_path / "a.tar.gz").read_bytes() == (tmp_path / "b.tar.gz").read_bytes()
    assert {entry.name: (tmp_path / "folder" / entry.name).read_bytes() for entry in ENTRIES} == {
        entry.name: entry.source for entry in ENTRIES
    }


def test_unpack_returns_the_archived_files(tmp_path: Path) -> None:
    write(tmp_path / "m.mar", ENTRIES)
    mar.unpack(tmp_path / "m.mar", tmp_path / "out")
    assert (tmp_path / "out" / "a" / "b.py").read_bytes() == b"x = 1\n"


def hostile(name: str, *, mode: int = 0o644, data: bytes = b"x", twice: bool = False, deflate: bool = False) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED if deflate else zipfile.ZIP_STORED) as archive:
        info = zipfile.ZipInfo(name)
        info.external_attr = mode << 16
        info.compress_type = archive.compression
        archive.writestr(info, data)
        if twice:
            archive.writestr(f"./{name}", data)
    return buffer.getvalue()


def bomb() -> bytes:
    """28 entries of 160 MiB of zeros: each might be a tensor, all of them are a bomb."""
    one = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = one.compress(bytes(160 << 20)) + one.flush()
    crc = zlib.crc32(bytes(160 << 20))
    return written([(f"t{number}", packed, crc, len(packed), 160 << 20) for number in range(28)])


def written(entries: list[tuple[str, bytes, int, int, int]], flags: int = 0, method: int = 8) -> bytes:
    """A zip with these names, compressed bytes, checksums, compressed sizes and sizes."""
    body, directory = b"", b""
    for name, packed, crc, compressed, size in entries:
        head = struct.pack("<5H3I2H", 20, flags, method, 0, 33, crc, compressed, size, len(name), 0)
        directory += b"PK\x01\x02" + struct.pack("<H", 20) + head + struct.pack("<3H2I", 0, 0, 0, 0, len(body)) + name.encode()
        body += b"PK\x03\x04" + head + name.encode() + packed
    count = len(entries)
    return body + directory + b"PK\x05\x06" + struct.pack("<4H2IH", 0, 0, count, count, len(directory), len(body), 0)


def overlapping() -> bytes:
    return written([("a", b"x" * 9, zlib.crc32(b"x" * 9), 1 << 20, 1 << 20)], method=0)


def encrypted() -> bytes:
    return written([("m.py", b"x" * 20, 1, 20, 8)], flags=1, method=0)


def damaged() -> bytes:
    return written([("m.py", b"\xff" * 20, 1, 20, 8)])


def both_file_and_folder() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a", b"x")
        archive.writestr("a/b", b"x")
    return buffer.getvalue()


def test_what_repeats_itself_is_not_a_bomb(tmp_path: Path) -> None:
    """A tensor of zeros and a list of one word are smaller than a thousandth of themselves."""
    path = tmp_path / "m.mar"
    path.write_bytes(hostile("zeros.pt", data=bytes(200 << 20), deflate=True))
    mar.unpack(path, tmp_path / "out")
    assert (tmp_path / "out" / "zeros.pt").stat().st_size == 200 << 20


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (hostile("../out2/evil.py"), "outside"),
        (hostile("/etc/evil"), "outside"),
        (hostile("a/../../evil"), "outside"),
        (hostile("a\\..\\evil"), "outside"),
        (hostile("link", mode=stat.S_IFLNK | 0o777, data=b"/etc/passwd"), "symbolic link"),
        (bomb(), "zip bomb"),
        (overlapping(), "overlap"),
        (encrypted(), "encrypted"),
        (damaged(), "not a readable"),
        (both_file_and_folder(), "as a file and as a folder"),
        (hostile("m.py", twice=True), "twice"),
        (b"not a zip", "not a readable"),
        (hostile("m.py")[:-30], "not a readable"),
    ],
)
def test_a_hostile_archive_is_refused_and_nothing_is_written(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "evil.mar"
    path.write_bytes(content)
    with pytest.raises(ArchiveInvalid, match=message):
        mar.unpack(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert [one.name for one in tmp_path.iterdir()] == ["evil.mar"]
