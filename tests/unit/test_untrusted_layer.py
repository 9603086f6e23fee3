"""What untrusted code leaves in a container becomes a layer of plain files; every trick of a hand-made tar is refused by name."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests import messages
from tests.errors import fails
from torchrelay.core.errors import DependenciesUnresolved
from torchrelay.image import setup, untrusted_layer
from torchrelay.image.untrusted_layer import UntrustedLayer, checked_layer
from torchrelay.oci.tar_reader import PAX_LIMIT

FOLDER = "opt/torchrelay/models/m"
DEPS = "opt/torchrelay/deps"
ALLOWED = setup.allowed(FOLDER, "sub/model.pt", 1 << 20)
END = bytes(1024)


def entry(name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, target: str = "", **fields: Any) -> bytes:
    """Return header and content of one entry as Python's tarfile writes it, with any name and kind."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, target, len(content)
    for key, value in fields.items():
        setattr(info, key, value)
    return info.tobuf(tarfile.PAX_FORMAT) + content + bytes(-len(content) % 512)


def folder(name: str) -> bytes:
    return entry(name, kind=tarfile.DIRTYPE)


def link(name: str, target: str) -> bytes:
    return entry(name, kind=tarfile.SYMTYPE, target=target)


def hard(name: str, target: str) -> bytes:
    return entry(name, kind=tarfile.LNKTYPE, target=target)


def forged(header: bytes, **fields: tuple[int, bytes]) -> bytes:
    """Return a header with bytes replaced at an offset, and the checksum set right again."""
    changed = bytearray(header)
    for offset, data in fields.values():
        changed[offset : offset + len(data)] = data
    changed[148:156] = b" " * 8
    changed[148:156] = b"%06o\0 " % sum(changed[:512])
    return bytes(changed)


def pax(data: bytes) -> bytes:
    return entry("x", data, b"x")


def record(keyword: str, value: str) -> bytes:
    body = f" {keyword}={value}\n".encode()
    size = len(body) + len(str(len(body) + 3))
    return f"{size}".encode() + body


def read(tmp_path: Path, *parts: bytes, end: bytes = END) -> UntrustedLayer:
    data = b"".join(parts) + end
    return checked_layer((data[at : at + 700] for at in range(0, len(data), 700)), ALLOWED, tmp_path / "spool")


def written(layer: UntrustedLayer) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(b"".join(layer.parts()))) as archive:
        return {member.name: member for member in archive}


def content(layer: UntrustedLayer, name: str) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(b"".join(layer.parts()))) as archive:
        file = archive.extractfile(name)
        assert file is not None
        return file.read()


def test_control_files_and_links_are_kept(tmp_path: Path) -> None:
    layer = read(
        tmp_path,
        *map(folder, ("opt", "opt/torchrelay", "opt/torchrelay/models", FOLDER, f"{FOLDER}/sub")),
        entry(f"{FOLDER}/sub/a.txt", b"x" * 1500),
        link(f"{FOLDER}/sub/up", "../b"),
        link(f"{FOLDER}/chain", "sub/up"),
        link(f"{FOLDER}/dangling", "not_there"),
        link(f"{FOLDER}/sub/absolute", f"/{FOLDER}/sub/a.txt"),
        link(f"{FOLDER}/itself", f"/{FOLDER}"),
        hard(f"{FOLDER}/same", f"{FOLDER}/sub/a.txt"),
        entry(f"{FOLDER}/{'n' * 200}"),
        entry(f"{FOLDER}/größe", b"1"),
        entry(f"{DEPS}/lib/python3.11/site-packages/x.py", b"1"),
    )
    names = written(layer)
    assert {name: names[f"{FOLDER}/{name}"].linkname for name in ("sub/up", "chain", "dangling", "sub/absolute", "itself")} == {
        "sub/up": "../b",
        "chain": "sub/up",
        "dangling": "not_there",
        "sub/absolute": "../sub/a.txt",
        "itself": ".",
    }
    assert names[f"{FOLDER}/same"].isreg()
    assert content(layer, f"{FOLDER}/same") == content(layer, f"{FOLDER}/sub/a.txt") == b"x" * 1500
    assert f"{FOLDER}/{'n' * 200}" in names
    assert content(layer, f"{FOLDER}/größe") == b"1"
    assert list(names) == sorted(names)


def test_only_the_x_bit_is_kept_of_modes_owners_times_and_attributes(tmp_path: Path) -> None:
    odd: dict[str, Any] = {
        "uid": 1000,
        "gid": 7,
        "uname": "me",
        "mtime": 99,
        "pax_headers": {"SCHILY.xattr.security.capability": "all"},
    }
    layer = read(
        tmp_path,
        entry(f"{FOLDER}/run", b"1", mode=0o6755, **odd),
        entry(f"{FOLDER}/data", b"1", mode=0o6666, **odd),
        entry(f"{FOLDER}/shared", kind=tarfile.DIRTYPE, mode=0o3777, **odd),
    )
    names = written(layer)
    assert {name.rpartition("/")[2]: oct(info.mode) for name, info in names.items() if name.startswith(f"{FOLDER}/")} == {
        "run": "0o755",
        "data": "0o644",
        "shared": "0o755",
    }
    assert {(info.uid, info.gid, info.uname, info.mtime) for info in names.values()} == {(0, 0, "", 0)}
    assert not any(info.pax_headers for info in names.values())


ATTACK = [folder(f"{FOLDER}/x"), link(f"{FOLDER}/y", "/opt/torchrelay/runtime")]
TRICKS = {
    "outside": (entry("etc/passwd"), "etc/passwd"),
    "the runtime": (entry("opt/torchrelay/runtime/torchrelay_runtime/probe.py"), "probe.py"),
    "a sibling by prefix": (entry(f"{FOLDER}-other/x"), "m-other"),
    "an absolute name": (entry(f"/{FOLDER}/x"), "plain path"),
    "dots in a name": (entry(f"{FOLDER}/../../runtime/probe.py"), "plain path"),
    "a dot in a name": (entry(f"{FOLDER}/./x"), "plain path"),
    "two slashes": (entry(f"{FOLDER}//x"), "plain path"),
    "a file with a trailing slash": (forged(entry("dots"), name=(0, f"{FOLDER}/x/".encode())), "plain path"),
    "dots in the prefix field": (forged(entry("x"), prefix=(345, f"{FOLDER}/../../runtime".encode())), "plain path"),
    "dots in a PAX header": (pax(record("path", f"{FOLDER}/../x")) + entry(f"{FOLDER}/good"), "plain path"),
    "the folder as a link": (link(FOLDER, "/opt/torchrelay/runtime"), "not a folder"),
    "a folder above as a link": (link("opt/torchrelay", "/etc"), "not a folder"),
    "a folder and a link of one name": (folder(f"{FOLDER}/x") + link(f"{FOLDER}/x", "y"), "twice"),
    "two files of one name": (entry(f"{FOLDER}/x") * 2, "twice"),
    "a file through a link": (link(f"{FOLDER}/x", "y") + entry(f"{FOLDER}/x/probe.py"), "leads through"),
    "a file through a later link": (entry(f"{FOLDER}/x/probe.py") + link(f"{FOLDER}/x", "y"), "leads through"),
    "a file through a file": (entry(f"{FOLDER}/x") + entry(f"{FOLDER}/x/y"), "leads through"),
    "an absolute link": (b"".join(ATTACK), "leads out"),
    "an absolute link by prefix": (link(f"{FOLDER}/x", f"/{FOLDER}-other"), "leads out"),
    "an absolute link with dots": (link(f"{FOLDER}/x", f"/{FOLDER}/../.."), "leads out"),
    "a link above": (link(f"{FOLDER}/x", "../../runtime/torchrelay_runtime"), "leads out"),
    "a link above and back": (link(f"{FOLDER}/x", "../m/y"), "leads out"),
    "a link to the other folder": (link(f"{FOLDER}/x", "../../deps/y"), "leads out"),
    "an empty link": (link(f"{FOLDER}/x", ""), "leads out"),
    "links that add up": (
        folder(f"{FOLDER}/a") + folder(f"{FOLDER}/a/b") + link(f"{FOLDER}/d", "a/b/../..") + link(f"{FOLDER}/e", "d/../x"),
        "leads out",
    ),
    "links that add up in the other order": (
        link(f"{FOLDER}/a/e", "../d/../x") + link(f"{FOLDER}/d", "."),
        "leads out",
    ),
    "dots after a name that a lower layer may have as a link": (link(f"{FOLDER}/x", "lower/../y"), "leads out"),
    "links in a circle": (link(f"{FOLDER}/x", "y") + link(f"{FOLDER}/y", "x"), "circle"),
    "a hard link outside": (hard(f"{FOLDER}/x", "etc/shadow"), "hard link"),
    "a hard link to a later file": (hard(f"{FOLDER}/x", f"{FOLDER}/y") + entry(f"{FOLDER}/y"), "hard link"),
    "a hard link to a link": (link(f"{FOLDER}/y", "z") + hard(f"{FOLDER}/x", f"{FOLDER}/y"), "hard link"),
    "a hard link with dots": (entry(f"{FOLDER}/y") + hard(f"{FOLDER}/x", f"{FOLDER}/../m/y"), "hard link"),
    "a character device": (entry(f"{FOLDER}/x", kind=tarfile.CHRTYPE), "a device"),
    "a block device": (entry(f"{FOLDER}/x", kind=tarfile.BLKTYPE), "a device"),
    "a named pipe": (entry(f"{FOLDER}/x", kind=tarfile.FIFOTYPE), "a named pipe"),
    "an unknown kind": (entry(f"{FOLDER}/x", kind=b"Z"), "unknown kind"),
    "an old sparse file": (entry(f"{FOLDER}/x", kind=tarfile.GNUTYPE_SPARSE), "unknown kind"),
    "a global PAX header": (entry("g", record("path", "x"), b"g"), "unknown kind"),
    "a sparse file": (pax(record("GNU.sparse.realsize", "9" * 12)) + entry(f"{FOLDER}/x"), "sparse"),
    "a GNU long name": (entry("././@LongLink", b"x" * 3000, b"L"), "unknown kind"),
    "a whiteout of a file": (entry(f"{FOLDER}/.wh.handler.py"), "delete"),
    "a whiteout of the folder's content": (entry(f"{DEPS}/.wh..wh..opq"), "delete"),
    "a folder named as a whiteout": (entry(f"{FOLDER}/.wh.x/y"), "delete"),
    "the weights": (entry(f"{FOLDER}/sub/model.pt"), "replace"),
    "the weights' folder as a link": (link(f"{FOLDER}/sub", "other"), "replace"),
    "the settings of the archive": (entry(f"{FOLDER}/torchrelay.json"), "replace"),
    "the handler library": (entry(f"{FOLDER}/torchrelay_handlers/__pycache__/handler.cpython-311.pyc"), "replace"),
    "the handler library as a link": (link(f"{FOLDER}/torchrelay_handlers", "mine"), "replace"),
    "a long name": (entry(f"{FOLDER}/{'n' * 256}"), "too long"),
    "a long path": (entry(f"{FOLDER}/{'n/' * 2100}x"), "too long"),
    "a long link": (link(f"{FOLDER}/x", "n/" * 2100), "too long"),
    "bytes that are not UTF-8": (forged(entry("x"), name=(0, f"{FOLDER}/".encode() + b"\xff")), "UTF-8"),
    "a zero byte": (pax(record("path", f"{FOLDER}/x\0/../y")) + entry("x"), "zero byte"),
    "a PAX header bomb": (pax(b"x" * (PAX_LIMIT + 1)), "are read"),
    "PAX headers without an end": (pax(record("path", "x")) * 2, "PAX headers"),
    "a PAX header without an entry": (pax(record("path", "x")), "without an entry"),
    "a damaged PAX header": (pax(b"99 path=x\n") + entry("x"), "damaged"),
    "a PAX record of length 0": (pax(b"0 path=x\n") + entry("x"), "damaged"),
    "a size that is not octal": (forged(entry(f"{FOLDER}/x"), size=(124, b"\x80" + bytes(11))), "octal"),
    "a folder with content": (forged(folder(f"{FOLDER}/x"), size=(124, b"00000001000\0")) + bytes(512), "with content"),
    "a wrong checksum": (b"y" + entry(f"{FOLDER}/x")[1:], "checksum"),
    "another format": (entry(f"{FOLDER}/x")[:257] + bytes(255), "POSIX"),
    "more bytes than allowed": (entry(f"{FOLDER}/x", bytes((1 << 20) + 1)), "more than"),
    "more bytes than allowed, by hard links": (
        entry(f"{FOLDER}/x", bytes(1 << 19)) + b"".join(hard(f"{FOLDER}/{at}", f"{FOLDER}/x") for at in range(3)),
        "more than",
    ),
}


@pytest.mark.parametrize("trick", TRICKS)
def test_a_trick_is_refused(tmp_path: Path, trick: str) -> None:
    data, words = TRICKS[trick]
    with fails(DependenciesUnresolved, "the handler's setup left", words=words):
        read(tmp_path, entry(f"{FOLDER}/good"), data)


def test_anything_outside_is_refused_as_not_in_the_model(tmp_path: Path) -> None:
    with fails(DependenciesUnresolved, words=messages.NOT_IN_MODEL):
        read(tmp_path, entry("etc/passwd"))


@pytest.mark.parametrize("cut", [1, 511, 512, 700, 1024])
def test_a_tar_that_ends_early_is_refused(tmp_path: Path, cut: int) -> None:
    whole = entry(f"{FOLDER}/x", bytes(600))
    with fails(DependenciesUnresolved, words="ends early"):
        read(tmp_path, whole[:cut], end=b"")


def test_the_number_of_entries_and_of_steps_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(untrusted_layer, "MOST_ENTRIES", 10)
    with fails(DependenciesUnresolved, words="10 files"):
        read(tmp_path, *[folder("opt")] * 11)
    monkeypatch.setattr(untrusted_layer, "MOST_STEPS", 100)
    with fails(DependenciesUnresolved, words="too many links"):
        read(tmp_path, *[link(f"{FOLDER}/{at}", "a/b/c/d/e/f/g/h") for at in range(9)])


def test_contents_are_read_as_a_stream(tmp_path: Path) -> None:
    """A header that announces more than is allowed ends the reading before its content is asked for."""
    asked = []

    def chunks() -> Iterator[bytes]:
        yield forged(entry(f"{FOLDER}/x"), size=(124, b"77777777777\0"))
        for at in range(1 << 20):
            asked.append(at)
            yield bytes(1 << 20)

    with fails(DependenciesUnresolved, words="more than"):
        checked_layer(chunks(), ALLOWED, tmp_path / "spool")
    assert asked == []


def test_names_can_be_relative_to_a_folder_as_docker_sends_them(tmp_path: Path) -> None:
    package = "lib/python3.11/site-packages/x.py"
    data = folder("deps/") + entry(f"deps/{package}", b"1") + hard("deps/y", f"deps/{package}")
    allowed = replace(ALLOWED, folders=(DEPS,), author="pip")
    layer = checked_layer(iter([data, END]), allowed, tmp_path / "spool", "opt/torchrelay/")
    assert layer.names == [f"{DEPS}/{package}", f"{DEPS}/y"]
    for data in (link("deps", "/etc"), entry("other/x"), entry("deps/../x")):
        with fails(DependenciesUnresolved, "pip left"):
            checked_layer(iter([data, END]), allowed, tmp_path / "spool", "opt/torchrelay/")


def test_the_same_files_give_the_same_bytes(tmp_path: Path) -> None:
    one = [entry(f"{FOLDER}/b", b"1", mtime=5), entry(f"{FOLDER}/a", b"2", uid=7)]
    first = b"".join(read(tmp_path, *one).parts())
    assert first == b"".join(read(tmp_path, *reversed(one)).parts())
