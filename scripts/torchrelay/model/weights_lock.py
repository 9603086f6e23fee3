"""weights.lock: the digest of the weights that the address in model.yaml had when last accepted; committed with the model."""

import json
import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated
from urllib.parse import unquote_plus, urlsplit, urlunsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from torchrelay.core.errors import ModelInvalid, Problem
from torchrelay.core.files import atomic_write

LOCK_NAME = "weights.lock"


SECRET_PARAMETER = re.compile(
    r"x-(amz|goog|ms|oss|cos|obs|bce)-.*|aws.*|googleaccessid|ossaccesskeyid|.*(signature|token|secret|passw|pwd|credential|api[-_]?key"
    r"|access[-_]?key|auth|policy|expire|session|jwt|hmac).*|key-pair-id|sig|sign|pass|e|h|code",
    re.IGNORECASE,
)
"""Names of parameters that grant access for whoever knows them, or change with every signature."""
AZURE_PARAMETER = re.compile(r"s(v|s|rt|p|t|e|pr|ip|r|ig|koid|ktid|kt|ke|ks|kv|aoid|uoid|cid|dd|es)")
"""Names of the parameters that an Azure signature (`sig`) consists of; without one they can mean anything."""


def public_source(uri: str) -> str:
    """Return an address without the parts that grant access: the signature of a signed address, a token, a user.

    Two signed addresses of one file have the same public form. The version of an S3 address stays, as do other parameters.
    """
    parts = urlsplit(uri)
    if parts.scheme.lower() not in ("http", "https"):
        return uri
    pairs = [(name, pair) for pair in parts.query.split("&") if pair for name in [unquote_plus(pair.partition("=")[0]).lower()]]
    signed = {name for name, _ in pairs if SECRET_PARAMETER.fullmatch(name)}
    if "sig" in signed:
        signed |= {name for name, _ in pairs if AZURE_PARAMETER.fullmatch(name)}
    query = "&".join(pair for name, pair in pairs if name not in signed)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query=query, fragment=""))


@dataclass(frozen=True)
class Locked:
    """The accepted weights: their address, size in bytes, digest, and the source's name for that version.

    The file is committed, so it contains the address's public form only (`public_source`).
    """

    source: str
    size: int
    sha256: str
    version: str

    def covers(self, uri: str) -> bool:
        """Return whether this entry is for an address, whatever the signature in it."""
        return public_source(self.source) == public_source(uri)


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
    """Write weights.lock if its content changes, with the public form of the address."""
    locked = replace(locked, source=public_source(locked.source))
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
