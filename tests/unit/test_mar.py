"""The archive's bytes depend on its inputs alone, and hostile archives are refused before anything is written."""

import io
import os
import stat
import time
import zipfile
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


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (hostile("../out2/evil.py"), "outside"),
        (hostile("/etc/evil"), "outside"),
        (hostile("a/../../evil"), "outside"),
        (hostile("a\\..\\evil"), "outside"),
        (hostile("link", mode=stat.S_IFLNK | 0o777, data=b"/etc/passwd"), "symbolic link"),
        (hostile("bomb", data=bytes(10_000_000), deflate=True), "zip bomb"),
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
