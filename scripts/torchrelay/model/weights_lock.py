"""weights.lock: the digest of the weights that the address in model.yaml had when last accepted; committed with the model."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from torchrelay.core.errors import ModelInvalid, Problem
from torchrelay.core.files import atomic_write

LOCK_NAME = "weights.lock"


@dataclass(frozen=True)
class Locked:
    """The accepted weights: their address, size in bytes, digest, and the source's name for that version."""

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
    """Return the content of weights.lock, None without the file.

    Raises ModelInvalid when the file does not have the form that `write_lock` writes.
    """
    path = model_dir / LOCK_NAME
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ModelInvalid([Problem(LOCK_NAME, None, "", f"cannot be read: {error.strerror}")]) from error
    try:
        content_checked = _LockFile.model_validate_json(content)
    except ValidationError as error:
        fix = "restore it from git, or delete it and run `torchrelay fetch` to lock the current weights"
        raise ModelInvalid(
            [
                Problem(LOCK_NAME, None, ".".join(str(part) for part in problem["loc"]), problem["msg"], fix)
                for problem in error.errors()
            ]
        ) from error
    return Locked(**content_checked.model_dump())


def write_lock(model_dir: Path, locked: Locked) -> None:
    """Write weights.lock if its content changes."""
    if read_lock_quietly(model_dir) == locked:
        return
    with atomic_write(model_dir / LOCK_NAME) as file:
        file.write(json.dumps(asdict(locked), indent=2, sort_keys=True).encode() + b"\n")


def read_lock_quietly(model_dir: Path) -> Locked | None:
    """Return the content of weights.lock, None when the file is missing or damaged."""
    try:
        return read_lock(model_dir)
    except ModelInvalid:
        return None
