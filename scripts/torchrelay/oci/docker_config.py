"""The credentials that `docker login` stored, the default of `Registry`."""

from torchrelay.oci.reference import DOCKER_HUB


def docker_credentials(host: str) -> tuple[str, str] | None:
    """Return user and password that `docker login` stored for a registry, from credential helpers too."""
    from docker.auth import load_config  # noqa: PLC0415 -- importing docker takes 0.2 s

    entry = load_config().resolve_authconfig("docker.io" if host == DOCKER_HUB else host) or {}
    user, password = entry.get("username") or entry.get("Username"), entry.get("password") or entry.get("Password")
    return (user, password) if user and password else None
