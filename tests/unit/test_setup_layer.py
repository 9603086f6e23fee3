"""The setup layer without Docker: when it exists, its dependencies, and its allowed content."""

import os
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from torchrelay.core.progress import Quiet
from torchrelay.image import setup, setup_program
from torchrelay.image.mar import Archived, Entry, write_mar
from torchrelay.oci.image import Image

FOLDER = "opt/torchrelay/models/m"
RUNTIME = Image({"config": {}, "rootfs": {"diff_ids": []}, "history": []}, (), {})


def archived(folder: Path, files: dict[str, bytes]) -> Archived:
    path = folder / "m.mar"
    with Quiet().task("", None) as task:
        stored = write_mar(path, [Entry(name, content) for name, content in {"model.pt": b"w", **files}.items()], task)
    return Archived(path, "m", "1.0", "model.pt", "", stored, skipped=False)


@pytest.mark.parametrize(
    ("files", "wanted"),
    [
        ({"handler.py": b"handler = handler_factory(f, unpack_dependencies=g)"}, True),
        ({"handler.py": b"from other import *", "lib/other.py": b"def install_packages(): ..."}, True),
        ({"handler.py": b"handler = handler_factory(f)"}, False),
        ({"torchrelay_handlers/factory.py": b"install_packages"}, False),
        ({"notes.txt": b"install_packages"}, False),
    ],
)
def test_only_code_with_a_setup_is_run_for_one(tmp_path: Path, files: dict[str, bytes], wanted: bool) -> None:
    assert setup.has_setup(archived(tmp_path, files)) is wanted


def test_only_changed_code_makes_the_layer_again(tmp_path: Path) -> None:
    def key(files: dict[str, bytes], runtime: Image = RUNTIME) -> str:
        return setup._key(runtime, archived(tmp_path, files), None, FOLDER)

    code = {"handler.py": b"install_packages"}
    assert key(code) == key(code) == key(code | {"model.pt": b"other weights"}) == key(code | {"torchrelay_handlers/x.py": b"1"})
    assert key(code) != key({"handler.py": b"install_packages()"})
    assert key(code) != key(code | {"names.txt": b"a"})
    assert key(code) != key(code, replace(RUNTIME, config={**RUNTIME.config, "x": 1}))


def test_the_reason_is_the_programs_message_or_its_last_line() -> None:
    assert setup.reason("x\nERROR: install_packages failed: no\n") == "install_packages failed: no"
    assert setup.reason("a\nb\nc\nKilled\n") == "b c Killed"


def test_new_and_changed_files_are_packed_with_fixed_owners_and_times(tmp_path: Path) -> None:
    root = tmp_path / "model"
    (root / "sub").mkdir(parents=True)
    (root / "old.txt").write_text("old")
    (root / "changed.txt").write_text("old")
    before = setup_program.state([root])
    (root / "changed.txt").write_text("newer")
    (root / "sub/run.sh").write_text("#!")
    (root / "sub/run.sh").chmod(0o700)
    (root / "sub/link").symlink_to("run.sh")
    after = setup_program.state([root])
    changed = [path for path in sorted(after) if before.get(path) != after[path]]
    assert [os.path.relpath(path, root) for path in changed] == ["changed.txt", "sub/link", "sub/run.sh"]
    setup_program.pack(tmp_path / "x.tar", changed)
    first = (tmp_path / "x.tar").read_bytes()
    os.utime(root / "changed.txt", (1, 1))
    setup_program.pack(tmp_path / "x.tar", changed)
    assert (tmp_path / "x.tar").read_bytes() == first
    with tarfile.open(tmp_path / "x.tar") as archive:
        entries = {info.name.removeprefix(f"{root}/".lstrip("/")): info for info in archive if not info.isdir()}
        assert all(info.mode == 0o755 for info in archive.getmembers() if info.isdir())
    assert {name: info.mode for name, info in entries.items() if info.isreg()} == {"changed.txt": 0o644, "sub/run.sh": 0o755}
    assert entries["sub/link"].linkname == "run.sh"


def test_a_file_of_two_names_is_packed_twice(tmp_path: Path) -> None:
    """Package installers link files out of their caches; a link within the tar is refused because it is not a file of the model."""
    root = tmp_path / FOLDER
    root.mkdir(parents=True)
    (root / "a.bin").write_bytes(b"bytes")
    (root / "b.bin").hardlink_to(root / "a.bin")
    setup_program.pack(tmp_path / "r.tar", [str(root / "a.bin"), str(root / "b.bin")])
    with tarfile.open(tmp_path / "r.tar") as archive:
        files = [member for member in archive if not member.isdir()]
        assert [member.isreg() for member in files] == [True, True]
        assert [archive.extractfile(member).read() for member in files] == [b"bytes"] * 2  # type: ignore[union-attr] # its kind is known here
