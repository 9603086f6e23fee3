"""weights.lock: which bytes the address in model.yaml meant when they were last agreed on; committed with the model."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from torchrelay.core.errors import ModelInvalid, Problem
from torchrelay.core.files import atomic_write

NAME = "weights.lock"


@dataclass(frozen=True)
class Locked:
    """The agreed weights: their address, size in bytes, digest, and what the source called that state."""

    source: str
    size: int
    sha256: str
    version: str


class _LockFile(BaseModel):
    """The form of the file."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    source: str
    size: Annotated[int, Field(ge=0)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    version: str


def read_lock(model_dir: Path) -> Locked | None:
    """Return what is locked, None when nothing is.

    Raises ModelInvalid when the file is not one that `write_lock` wrote: guessing would undo its purpose.
    """
    path = model_dir / NAME
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ModelInvalid([Problem(NAME, None, "", f"cannot be read: {error.strerror}")]) from error
    try:
        found = _LockFile.model_validate_json(content)
    except ValidationError as error:
        fix = "restore it from git, or delete it and run `torchrelay fetch` to lock what the address gives now"
        raise ModelInvalid(
            [Problem(NAME, None, ".".join(str(part) for part in problem["loc"]), problem["msg"], fix) for problem in error.errors()]
        ) from error
    return Locked(**found.model_dump())


def write_lock(model_dir: Path, locked: Locked) -> None:
    """Write the file, if it changes."""
    if read_lock_quietly(model_dir) == locked:
        return
    with atomic_write(model_dir / NAME) as file:
        file.write(json.dumps(asdict(locked), indent=2, sort_keys=True).encode() + b"\n")


def read_lock_quietly(model_dir: Path) -> Locked | None:
    """Return what is locked, None as well when the file is spoilt."""
    try:
        return read_lock(model_dir)
    except ModelInvalid:
        return None
