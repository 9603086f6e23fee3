"""Checks of the texts in model.yaml: names, versions, paths, variables; each message says what is allowed."""

import re
from ipaddress import ip_network
from pathlib import PurePosixPath

from pydantic_core import PydanticCustomError

from torchrelay.core.text import meant, printable, shown
from torchrelay.model import quantities
from torchrelay.model.handlers import SHIPPED

NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
VERSION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
EKS_CLUSTER = re.compile(r"arn:aws[a-z-]*:eks:[a-z0-9-]+:[0-9]{12}:cluster/[A-Za-z0-9][A-Za-z0-9_-]{0,99}")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_OUR_ENV = ("TORCHRELAY_", "AIP_")
_SERVER_ENV = {
    "PATH",
    "HOME",
    "PYTHONPATH",
    "PYTHONHOME",
    "LD_PRELOAD",
    "LD_LIBRARY_PATH",
    "JAVA_HOME",
    "TEMP",
    "TMPDIR",
}


def refuse(message: str, fix: str = "") -> PydanticCustomError:
    """An error for pydantic to collect; `explain` keeps the fix apart."""
    return PydanticCustomError("refused", "{message}", {"message": message, "fix": fix})


def legal_name(value: str) -> str:
    """A DNS label: it becomes part of image, route and endpoint names."""
    if not NAME.fullmatch(value):
        slug = re.sub(r"[^a-z0-9]+", "-", value[:200].lower()).strip("-")[:63].strip("-")
        rule = "lower-case letters, digits and -, at most 63, a letter or digit at both ends"
        raise refuse(f"{shown(value)} is not a legal name ({rule})", f"did you mean {slug}?" if slug else "")
    return value


def eks_cluster(value: str) -> str:
    """The ARN of an EKS cluster."""
    if not EKS_CLUSTER.fullmatch(value):
        raise refuse(f"{shown(value)} is not the ARN of an EKS cluster", "write arn:aws:eks:REGION:ACCOUNT:cluster/NAME")
    return value


def network(value: str) -> str:
    """A network in CIDR notation; a single address is one too."""
    try:
        return str(ip_network(value))
    except ValueError as error:
        raise refuse(f"{shown(value)} is not a network: {printable(str(error))}", "write for example 10.0.0.0/8") from error


def legal_version(value: str) -> str:
    """A tag that every registry takes."""
    if not VERSION.fullmatch(value):
        rule = "letters, digits, _ . and -, at most 64, the first no . or -: it becomes an image tag"
        raise refuse(f"{shown(value)} is not a legal version ({rule})")
    return value


def relative_path(value: str) -> str:
    """A path inside the model directory, `./` and a `/` at the end removed.

    Raises:
        PydanticCustomError: it is absolute, leaves the directory, or could not be a path on every system.
    """
    if not value.strip() or not value.isprintable() or len(value) > 1024:
        raise refuse(f"{shown(value)} is not a path")
    if "\\" in value:
        raise refuse(f"{shown(value)} holds a backslash", "write / between folders")
    if value.startswith(("/", "~")) or re.match(r"[A-Za-z]:", value):
        raise refuse(f"{shown(value)} is not relative", "write it relative to model.yaml")
    path = PurePosixPath(value)
    if ".." in path.parts:
        raise refuse(f"{shown(value)} leaves the model directory", "move the file into it")
    if path == PurePosixPath():
        raise refuse(f"{shown(value)} is the model directory itself", "name files or folders in it")
    return str(path)


def python_file(value: str) -> str:
    """A path that ends in .py."""
    if not value.endswith(".py"):
        raise refuse(f"{shown(value)} is not a Python file", "name a file that ends in .py")
    return value


def handler(value: str) -> str:
    """A shipped handler, `handler.py` or `handler.py:attribute`."""
    path, colon, attribute = value.partition(":")
    if not path.endswith(".py") and not colon:
        if value not in SHIPPED:
            raise refuse(f"no shipped handler is called {shown(value)}", f"{meant(value, SHIPPED)}, or a file such as handler.py")
        return value
    if colon and not attribute.isidentifier():
        raise refuse(f"{shown(attribute)} is not a Python name", "write handler.py:attribute")
    return f"{python_file(relative_path(path))}{colon}{attribute}"


def variable_name(value: str) -> str:
    """A variable that neither the server nor Torchrelay sets."""
    if not _ENV_NAME.fullmatch(value):
        raise refuse(f"{shown(value)} is not a legal name of a variable", "letters, digits and _, no digit first")
    if value.startswith(_OUR_ENV) or value in _SERVER_ENV:
        raise refuse(f"{value} is set by Torchrelay", "choose another name")
    return value


def variable_value(value: str) -> str:
    """Text that any environment can hold."""
    if any(not (c.isprintable() or c in "\n\t") for c in value) or len(value) > 32768:
        raise refuse("holds a control character or is longer than 32768 characters")
    return value


def memory_quantity(value: str) -> str:
    """An amount that `quantities.parse` reads."""
    try:
        quantities.parse(value)
    except ValueError as error:
        message, _, fix = str(error).partition("; ")
        raise refuse(f"{shown(value)} {message}", fix) from error
    return value
