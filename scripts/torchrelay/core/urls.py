"""The rules for web addresses: those that people type, and where a secret may be sent unencrypted."""

import re
from ipaddress import ip_address
from urllib.parse import urlsplit

from torchrelay.core.errors import InputsInvalid
from torchrelay.core.text import shown

LONGEST = 2048
_HOSTNAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?", re.ASCII)
_FORM = "write https://host, with a path if needed: no user, no query, no fragment"


class Refused(ValueError):
    """A value breaks the rule of its input; the message says how, and what to write."""


def web_address(value: str) -> str:
    """Return an http(s) address without user, query or fragment. Raises Refused."""
    if len(value) > LONGEST:
        raise Refused(f"is longer than {LONGEST} characters")
    if not value.isprintable():
        raise Refused(f"{shown(value)} contains a character that cannot be printed")
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError as error:
        raise Refused(f"{shown(value)} is not an address; {_FORM}") from error
    plain = parts.scheme in ("http", "https") and port != 0 and _HOSTNAME.fullmatch(parts.hostname or "")
    if not plain or "@" in parts.netloc or "?" in value or "#" in value or " " in value or "\\" in value:
        raise Refused(f"{shown(value)} is not an address; {_FORM}")
    return value


def is_loopback(host: str) -> bool:
    """Return whether a host is this machine: an address of it or `localhost`, never a name that only looks like one."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def is_private(url: str) -> bool:
    """Return whether what is sent to an address cannot be read on the way: it is https, or plain http on this machine."""
    try:
        parts = urlsplit(url)
        return parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.hostname or ""))
    except ValueError:  # brackets that do not enclose an IPv6 address
        return False


def require_url(name: str, value: str) -> None:
    """Check an address. Raises InputsInvalid, naming the input."""
    try:
        web_address(value)
    except Refused as refused:
        raise InputsInvalid(f"input {name}: {refused}", "correct the address") from refused
