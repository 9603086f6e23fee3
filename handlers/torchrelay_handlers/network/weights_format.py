"""The format of a weights file, by its bytes and never by its name. Imports nothing of this package: the command reads it too."""

import struct
import zipfile
from pathlib import Path

STATE_DICT, LEGACY, SAFETENSORS, TORCHSCRIPT, EXPORTED = "state_dict", "legacy state_dict", "safetensors", "TorchScript", ".pt2"
COMPILED = "compiled .pt2"
FORMAT_OF = {
    **dict.fromkeys((STATE_DICT, LEGACY), "state_dict"),
    SAFETENSORS: "safetensors", TORCHSCRIPT: "torchscript", EXPORTED: "pt2", COMPILED: "aoti",
}  # fmt: skip
"""For each kind, the word for it in model.yaml's `weights: {format: ...}`."""
EXECUTES_CODE = ("torchscript", "pt2", "aoti")
_LEGACY_MAGIC = b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19"  # torch/serialization.py MAGIC_NUMBER, as pickle's LONG1


class WeightsError(RuntimeError):
    """The weights cannot be loaded; the message says why and what to do. A RuntimeError, so that TorchServe logs it."""


def kind_of(path: Path) -> str:
    """Which of the six kinds `path` is.

    Raises:
        WeightsError: it is none of them.
    """
    with path.open("rb") as file:
        head = file.read(512)
    if head.startswith(b"PK\x03\x04"):
        return _kind_of_zip(path)
    if len(head) > 8 and head[8:9] == b"{" and 2 <= struct.unpack("<Q", head[:8])[0] <= path.stat().st_size - 8:
        return SAFETENSORS
    if head.startswith(b"\x80") and _LEGACY_MAGIC in head[:32]:
        return LEGACY
    if head.startswith(b"version https://git-lfs"):
        raise WeightsError(f"{path.name} is a Git LFS pointer, not the weights; run git lfs pull")
    if head.lstrip()[:1] == b"<":
        raise WeightsError(f"{path.name} is a web page, not weights; look at where it was downloaded from")
    if not head:
        raise WeightsError(f"{path.name} is empty")
    raise WeightsError(
        f"{path.name} is not a weights file of torch or safetensors (it starts with {head[:8].hex(' ')}); "
        "save model.state_dict() with torch.save"
    )


def _kind_of_zip(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise WeightsError(f"{path.name} is a damaged file, cut short perhaps: {error}") from None
    inner = {name.partition("/")[2] for name in names} | set(names)
    if any(name.startswith("data/aotinductor/") for name in inner):
        return COMPILED
    if "archive_format" in inner or "serialized_exported_program.json" in inner:
        return EXPORTED
    if "constants.pkl" in inner or any(name.startswith("code/") for name in inner):
        return TORCHSCRIPT
    if "data.pkl" in inner:
        return STATE_DICT
    raise WeightsError(f"{path.name} is a zip file, but not one that torch.save writes; save model.state_dict() with torch.save")


def format_problem(path: Path, uri: str, declared: str | None) -> tuple[str, str] | None:
    """What is wrong with the declared format, and the line to write; None when the bytes agree with it.

    Raises:
        WeightsError: the file is none of the known kinds.
    """
    actual = FORMAT_OF[kind_of(path)]
    line = f"weights: {{uri: {uri}, format: {actual}}}"
    if declared is None and actual in EXECUTES_CODE:
        return (
            f"{path.name} is a {actual} file, which executes its author's code when it is loaded",
            f"save a state_dict or safetensors file; or, if you trust its author as you trust your own code, write `{line}`",
        )
    if declared is not None and declared != actual:
        reason = f"{path.name} is declared as {declared}, but its bytes are {actual}"
        return reason, f"look at where it comes from, or write `{line}`"
    return None
