"""Loads torch.export's .pt2 files. They are code; but their pickles need not be, so each is read as data before torch sees it."""

import io
import json
import os
import posixpath
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from torchrelay_handlers.network import zip_records
from torchrelay_handlers.network.state_files import load_data, one_line, refusal
from torchrelay_handlers.network.weights_format import WeightsError

_FOLDERS = ("data/weights/", "data/constants/", "data/sample_inputs/")
_FORCE = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"  # torch/serialization.py; stronger than the weights_only=False of torch.export's fall back


def load_program(path: Path) -> torch.export.ExportedProgram:
    """The exported program in `path`.

    Raises:
        WeightsError: it is damaged, one of its pickles holds more than data, or torch cannot read it.
    """
    try:
        _require_data(path)
    except zip_records.DamagedZip as error:
        raise WeightsError(f"{path.name} is a damaged file: {error}; save or upload it again") from None
    try:
        with _pickles_as_data():
            return torch.export.load(str(path))
    except Exception as error:  # whatever torch raises for a graph that it cannot read
        why = refusal(str(error)) or f"cannot be read by torch {torch.__version__}: {one_line(error)}; export the model again"
        raise WeightsError(f"{path.name} {why}") from None


@contextmanager
def _pickles_as_data() -> Iterator[None]:
    before = os.environ.get(_FORCE)
    os.environ[_FORCE] = "1"
    try:
        yield
    finally:
        os.environ.pop(_FORCE) if before is None else os.environ.__setitem__(_FORCE, before)


def _require_data(path: Path) -> None:
    """Read every pickle that torch.export.load would, by torch/export/pt2_archive/_package.py and the layout before torch 2.8."""
    records = {record.name.partition("/")[2]: record for record in zip_records.read(path)}
    records |= {record.name: record for record in records.values() if "/" not in record.name}
    for inner in _pickles(path, records):
        if inner not in records:
            raise zip_records.DamagedZip(f"it names a record {inner} that is not there")
        if content := zip_records.content(path, records[inner]):  # torch reads an empty one as nothing
            load_data(io.BytesIO(content), f"{path.name}: record {inner}")


def _pickles(path: Path, records: dict[str, zip_records.Record]) -> Iterator[str]:
    for inner, record in records.items():
        name = inner.casefold()  # torch finds records whatever their case
        folder = next((folder for folder in _FOLDERS if name.startswith(folder)), "")
        if (
            name.endswith((".pt", ".pkl"))
            or "opaque_obj" in name
            or "custom_obj" in name
            or name in ("serialized_state_dict.json", "serialized_constants.json")  # pickles in spite of their names
        ):
            yield inner
        elif folder and name.endswith("_config.json"):
            yield from _declared(zip_records.content(path, record), folder, inner)


def _declared(content: bytes, folder: str, inner: str) -> list[str]:
    """The records that a weights or constants config says to be pickles."""
    try:
        entries: dict[str, Any] = json.loads(content)["config"]
        return [posixpath.join(folder, entry["path_name"]) for entry in entries.values() if entry["use_pickle"]]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise zip_records.DamagedZip(f"record {inner} cannot be read") from error
