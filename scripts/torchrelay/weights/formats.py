"""Compares weights with the format that model.yaml declares, and checks their bytes, as the handler library does."""

from pathlib import Path

from torchrelay.core import library
from torchrelay.core.errors import ArchiveInvalid, ModelInvalid, Problem
from torchrelay.model.weights_uri import Weights

_FORMAT = library.load("network/weights_format")
_ZIP = library.load("network/zip_records")
_SAFETENSORS = library.load("network/safetensors_header")
EXECUTES_CODE: tuple[str, ...] = _FORMAT.EXECUTES_CODE


def format_of(path: Path) -> str | None:
    """The format of a file, in the words of model.yaml; None when it is none of those that the handler library loads."""
    try:
        name: str = _FORMAT.FORMAT_OF[_FORMAT.kind_of(path)]
    except _FORMAT.WeightsError:
        return None
    return name


def problem(path: Path, weights: Weights) -> tuple[str, str] | None:
    """Return message and fix when the bytes are not of the declared format, or execute code without being declared so.

    A file of another kind is for the author's own handler, unless its format is declared.
    """
    try:
        wrong: tuple[str, str] | None = _FORMAT.format_problem(path, weights.uri, weights.format)
    except _FORMAT.WeightsError as error:
        return (str(error), "write the file again, or remove `format`") if weights.format else None
    return wrong


def require_sound(path: Path, weights: Weights) -> None:
    """Refuse weights of another format than the declared one, and damaged ones; reads the whole file.

    Raises:
        ModelInvalid: the format is not the declared one, or executes code without being declared so.
        ArchiveInvalid: the file is damaged.
    """
    if wrong := problem(path, weights):
        raise ModelInvalid([Problem("model.yaml", None, "weights", *wrong)])
    actual = format_of(path)
    try:
        if actual == "safetensors":
            _SAFETENSORS.require_sound(path)
        elif actual is not None and _is_zip(path):
            _ZIP.require_contents(path)
    except (_SAFETENSORS.DamagedHeader, _ZIP.DamagedZip) as error:
        raise ArchiveInvalid(f"weights: {weights.uri}: the file is damaged: {error}", "save or upload the weights again") from error


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"PK"
