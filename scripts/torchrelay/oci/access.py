"""Registry clients with the right credentials."""

from torchrelay.oci import ecr
from torchrelay.oci.docker_config import docker_credentials
from torchrelay.oci.reference import Reference
from torchrelay.oci.registry import Registry


def registry_for(reference: Reference, *, create: bool = False) -> Registry:
    """Return a client with the registry's credentials: from the AWS API for ECR, otherwise those that `docker login` stored."""
    if ecr.is_ecr(reference.host):
        if create:
            ecr.ensure_repository(reference.host, reference.repository)
        return Registry(reference.base, credentials=ecr.registry_credentials)
    return Registry(reference.base, credentials=docker_credentials)
