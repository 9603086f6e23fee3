"""What `docker login` stored, the default credentials of `Registry`."""

from torchrelay.oci.reference import DOCKER_HUB


def docker_credentials(host: str) -> tuple[str, str] | None:
    """Return what `docker login` stored for a registry, credential helpers included."""
    from docker.auth import load_config  # noqa: PLC0415 -- 0.2 s only those with a daemon pay

    found = load_config().resolve_authconfig("docker.io" if host == DOCKER_HUB else host) or {}
    user, secret = found.get("username") or found.get("Username"), found.get("password") or found.get("Password")
    return (user, secret) if user and secret else None
