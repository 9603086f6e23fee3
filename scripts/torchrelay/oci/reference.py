"""Image references: `host[:port]/repository[:tag]`."""

import re
from dataclasses import dataclass

from torchrelay.core.errors import RegistryError
from torchrelay.core.urls import is_loopback

REPOSITORY = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*")
HOST = re.compile(
    r"(?=[^/]*[.:]|localhost)[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)*(?::(\d{1,5}))?"
)
DOCKER_HUB = "registry-1.docker.io"  # the host that serves docker.io
TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")


@dataclass(frozen=True)
class Reference:
    """A repository in a registry, and the tag of the image in it."""

    host: str
    repository: str
    tag: str

    @property
    def base(self) -> str:
        """Address of the registry; http only on this machine, otherwise https."""
        name = self.host.partition(":")[0]
        scheme = "http" if is_loopback(name) else "https"
        return f"{scheme}://{DOCKER_HUB if name == 'docker.io' else self.host}"

    @property
    def name(self) -> str:
        """`host/repository`."""
        return f"{self.host}/{self.repository}"


def parse_reference(text: str, default_tag: str) -> Reference:
    """Parse `host[:port]/repository[:tag]`. Raises RegistryError with the wrong part."""
    host, slash, rest = text.partition("/")
    match = HOST.fullmatch(host)
    if not slash or match is None or int(match[1] or 1) not in range(1, 65536) or "@" in text:
        raise RegistryError(f"{text!r} is not an image repository", "write host/repository, like 127.0.0.1:5000/models/digits")
    repository, colon, tag = rest.partition(":")
    tag = tag if colon else default_tag
    if not REPOSITORY.fullmatch(repository):
        raise RegistryError(f"{text!r}: {repository!r} is not a repository name", "use only lower-case letters, digits and . _ - /")
    if not TAG.fullmatch(tag):
        raise RegistryError(f"{text!r}: {tag!r} is not a tag", "use letters, digits and . _ -, at most 128 characters")
    return Reference(host, repository, tag)


def with_name(repository: str, name: str) -> str:
    """Return the repository of a model: its name is added to a repository that ends in /."""
    return repository + name if repository.endswith("/") else repository


def valid_destination(repository: str, name: str) -> str:
    """Return the repository of a model, as `with_name`. Raises RegistryError with the wrong part."""
    destination = with_name(repository, name)
    parse_reference(destination, "latest")
    return destination
