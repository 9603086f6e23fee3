"""The `weights` field of model.yaml: its URI is checked and split, nothing is read."""

import re
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal
from urllib.parse import unquote, urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from torchrelay.core.text import nearest, printable, shown
from torchrelay.core.urls import is_loopback
from torchrelay.model.fields import refuse

FORMS = "s3://bucket/key, https://..., hf://org/repo/path[@revision], or a path relative to model.yaml"

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):(?=/)")
_S3 = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]/(?P<key>[^?]*[^/?])(\?versionId=[^?&]+)?")
_HF = re.compile(r"hf://[\w.-]+/[\w.-]+/(?P<path>[^@?#]*[^@?#/])(@[\w./-]+)?", re.ASCII)
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")


def scheme_of(uri: str) -> str:
    """Return the scheme in lower case; `file` for a plain path."""
    match = _SCHEME.match(uri)
    return match[1].lower() if match else "file"


def checked_uri(uri: str) -> str:
    """The URI, when it has one of the forms that fetch reads.

    Raises:
        PydanticCustomError: it does not; the message has the form of its scheme.
    """
    if not uri.strip() or not uri.isprintable():
        raise refuse(f"{shown(uri)} is not a path or address", f"write {FORMS}")
    scheme = scheme_of(uri)
    check = _CHECKS.get(scheme)
    if check is None:
        near = nearest(scheme, _CHECKS)
        guess = f"did you mean {near}://? " if near else ""
        raise refuse(f"{printable(scheme)}:// is not supported", f"{guess}write {FORMS}")
    check(uri)
    if not legal_name(name := file_name(uri)):
        raise refuse(f"{shown(name)} is not a legal file name", "let the address end in the name of a file")
    return uri


def _check_s3(uri: str) -> None:
    if not _S3.fullmatch(uri):
        raise refuse(f"{shown(uri)} is not a legal S3 address", "write s3://bucket/key, the key naming one object")


def _check_hf(uri: str) -> None:
    if not _HF.fullmatch(uri) or ".." in uri.split("/"):
        raise refuse(f"{shown(uri)} is not a legal hub address", "write hf://org/repo/path[@revision]")


def _check_http(uri: str) -> None:
    try:
        parts = urlsplit(uri)
        host, password = parts.hostname or "", parts.password
        _ = parts.port
    except ValueError as error:
        raise refuse(f"{shown(uri)} is not a legal address: {printable(str(error))}") from error
    if not host or " " in uri:
        raise refuse(f"{shown(uri)} is not a legal address", "write https://host/path, spaces as %20")
    if password is not None or parts.username is not None:
        raise refuse("the address carries a password", "give it by the environment (~/.netrc), never in a file")
    if parts.scheme.lower() == "http" and not is_loopback(host):
        raise refuse("http:// can be changed on the way", "write https://")


def _check_file(uri: str) -> None:
    if uri.lower().startswith("file:") and not uri.lower().startswith("file:///"):
        raise refuse(f"{shown(uri)} is not a legal file address", "write a path relative to model.yaml")
    if "\\" in uri:
        raise refuse(f"{shown(uri)} holds a backslash", "write / between folders")
    if ".." in uri.split("/"):
        raise refuse(f"{shown(uri)} leaves the model directory", "move the file into it, or give its absolute path")


_CHECKS = {"s3": _check_s3, "https": _check_http, "http": _check_http, "hf": _check_hf, "file": _check_file}


def file_name(uri: str) -> str:
    """The name that the weights get in the archive: the last part of the path, escapes undone."""
    scheme = scheme_of(uri)
    if scheme == "hf":
        uri = uri.rpartition("@")[0] if "@" in uri else uri
    path = uri.partition("?")[0].partition("#")[0] if scheme != "file" else uri
    name = path.rpartition("/")[2]
    return unquote(name) if scheme in {"https", "http"} or uri.lower().startswith("file:") else name


def legal_name(name: str) -> bool:
    """Whether a file of this name can be at the top of every archive and image."""
    return bool(name) and name not in {".", ".."} and name.isprintable() and not set(name) & set('/\\:*?"<>|')


def _checked_sha256(value: str) -> str:
    if not _SHA256.fullmatch(value):
        raise refuse(f"{shown(value, 80)} is not a sha256", "write its 64 hexadecimal digits, as `sha256sum` prints them")
    return value.lower()


class Weights(BaseModel):
    """The address of the weights, and optionally their digest and format."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    uri: Annotated[str, AfterValidator(checked_uri)] = Field(description=f"Address of the weights file: {FORMS}.")
    sha256: Annotated[str, AfterValidator(_checked_sha256)] | None = Field(
        None,
        description="SHA-256 that the file must have, 64 hexadecimal digits. Default: the digest recorded in weights.lock.",
    )

    format: Literal["state_dict", "safetensors", "torchscript", "pt2", "aoti"] | None = Field(
        None,
        description="Format of the file, compared with its bytes. `torchscript`, `pt2` and `aoti` execute their author's code when "
        "they are loaded, so they must be declared. Default: state_dict or safetensors, which are data.",
    )

    @property
    def executes_code(self) -> bool:
        """Whether loading the weights executes code that is in them."""
        return self.format in ("torchscript", "pt2", "aoti")

    @property
    def scheme(self) -> str:
        """`s3`, `https`, `http` (loopback only), `hf` or `file`."""
        return scheme_of(self.uri)

    @property
    def filename(self) -> str:
        """The name of the file in the archive."""
        return file_name(self.uri)

    @property
    def inside(self) -> str | None:
        """The path relative to the model directory; None when the weights come from somewhere else."""
        local = self.scheme == "file" and not PurePosixPath(self.uri).is_absolute() and not self.uri.startswith("file:")
        return PurePosixPath(self.uri).as_posix() if local else None


def from_text(value: Any) -> Any:
    """`weights: URI` is short for `weights: {uri: URI}`."""
    if isinstance(value, str):
        return {"uri": value}
    if value is None or not isinstance(value, dict):
        raise refuse(f"expected an address or a mapping with `uri`, got {shown(value)}", f"write {FORMS}")
    return value
