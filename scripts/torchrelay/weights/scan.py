"""Scans a weights file before anything loads it: pickles by their opcodes, zip directories by their records. Nothing in it runs."""

import zipfile
from pathlib import Path
from typing import IO, cast

from torchrelay.core.errors import WeightsMissing
from torchrelay.core.text import printable
from torchrelay.weights.pickle_scan import HostilePickle, scan

ZIP, PICKLE = b"PK\x03\x04", b"\x80"
# torch/serialization.py MAGIC_NUMBER, as pickle's LONG1: a legacy file is five pickles, then the tensors' bytes
LEGACY_MAGIC = b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19"
LEGACY_PICKLES = 5
MOST_RECORDS = 1_000_000
MAX_EXPANSION = 4 << 30
"""Bytes that all records together may have beyond their compressed size: zeros compress a thousand times, a bomb more."""
PROTOCOLS = range(2, 6)
FIX = (
    "save only the tensors: `torch.save(model.state_dict(), 'model.pt')`, "
    "or convert: `safetensors.torch.save_file(state_dict, 'model.safetensors')`"
)


SAVE_AGAIN = "save or upload it again"


class DamagedFile(HostilePickle):
    """The file cannot be read."""


def refuse_hostile(uri: str, path: Path) -> None:
    """Refuse a state_dict whose pickles name more than data, and a zip file that is a bomb.

    Raises WeightsMissing, with the entry and the global.
    """
    if problem := problem_of(uri, path):
        raise WeightsMissing(f"weights: {problem[0]}", problem[1])


def problem_of(uri: str, path: Path) -> tuple[str, str] | None:
    """Return why a file is refused (the entry, and the global that it names) and the fix; None when it is not.

    Formats that are code (TorchScript, .pt2) are only looked at as zip files, and unknown ones not at all: a handler.py may have
    its own.
    """
    try:
        _scan(path)
    except HostilePickle as error:
        return f"{printable(uri)}: {printable(str(error))}", SAVE_AGAIN if isinstance(error, DamagedFile) else FIX
    return None


def _scan(path: Path) -> None:
    with path.open("rb") as file:
        head = file.read(512)
        file.seek(0)
        if head.startswith(ZIP):
            _scan_zip(path)
        elif head.startswith(PICKLE) and LEGACY_MAGIC in head[:32]:
            _scan_pickles(path.name, file, LEGACY_PICKLES)


def _scan_zip(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
            names = {info.filename.partition("/")[2] for info in infos}
            if len(infos) > MOST_RECORDS:
                raise HostilePickle(f"has {len(infos)} records, more than {MOST_RECORDS}")
            expansion = sum(info.file_size - info.compress_size for info in infos)
            if expansion > MAX_EXPANSION:
                raise HostilePickle(f"unpacks to {expansion} bytes more than its own: a zip bomb")
            if not is_state_dict(names):
                return
            for info in infos:
                if info.CRC == 0:  # torch.serialization.set_crc32_options(False) records none
                    del info.CRC
                with archive.open(info) as record:
                    head = cast("zipfile.ZipExtFile", record).peek(2)[:2]
                    if info.filename.endswith(".pkl") or (_begins_a_pickle(head) and not _is_tensor(info.filename)):
                        _scan_pickles(info.filename, record, 1)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError, ValueError) as error:
        if isinstance(error, HostilePickle):
            raise
        raise DamagedFile(f"is a damaged zip file: {printable(str(error))}") from error


def is_state_dict(names: set[str]) -> bool:
    """Whether these records, without their first folder, are those that torch.save writes, and no code."""
    code = any(name.startswith(("code/", "data/aotinductor/")) for name in names)
    return "data.pkl" in names and "constants.pkl" not in names and not code


def _begins_a_pickle(head: bytes) -> bool:
    return head[:1] == PICKLE and len(head) > 1 and head[1] in PROTOCOLS


def _is_tensor(name: str) -> bool:
    """Whether a record holds a tensor's bytes, which may begin like a pickle: torch reads them as numbers alone."""
    return name.rpartition("/")[0].endswith("data")


def _scan_pickles(entry: str, file: IO[bytes], count: int) -> None:
    for _ in range(count):
        try:
            scan(file)
        except HostilePickle as error:
            raise HostilePickle(f"{printable(entry)} {printable(str(error))}") from error
