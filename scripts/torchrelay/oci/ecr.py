"""Amazon ECR: the account and region of a registry host, short-lived credentials for it, and its repositories."""

import base64
import binascii
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import botocore.exceptions
from botocore.config import Config
from pydantic import SecretStr

from torchrelay.core.errors import RegistryError

if TYPE_CHECKING:
    from mypy_boto3_ecr import ECRClient

HOST = re.compile(r"(?P<account>\d{12})\.dkr[.-]ecr(?P<fips>-fips)?\.(?P<region>[a-z0-9-]+)\.(?:amazonaws\.com(?:\.cn)?|on\.aws)")
REPOSITORY = re.compile(r"(?:[a-z0-9]+(?:[._-][a-z0-9]+)*/)*[a-z0-9]+(?:[._-][a-z0-9]+)*")
LOG_IN = "run `aws sso login`, set AWS_PROFILE, or on GitHub set the inputs `aws-role` and `aws-region`"


@dataclass(frozen=True)
class EcrRegistry:
    """One account's registry in one region."""

    host: str
    account: str
    region: str


@dataclass(frozen=True)
class EcrCredentials:
    """User and password for the registry's HTTP API (basic authentication), valid for at most twelve hours."""

    username: str
    password: SecretStr


@dataclass(frozen=True)
class EcrRepository:
    """A repository and its settings; `created`: this call created it."""

    uri: str
    immutable_tags: bool
    scan_on_push: bool
    created: bool


def parse_host(host: str) -> EcrRegistry | None:
    """Return the registry of a host name, None when it is not an ECR host."""
    match = HOST.fullmatch(host)
    return EcrRegistry(host, match["account"], match["region"]) if match else None


def is_ecr(host: str) -> bool:
    """Return whether a registry's host name is an ECR host."""
    return parse_host(host) is not None


def parse_repository(reference: str) -> tuple[EcrRegistry, str]:
    """Parse `ACCOUNT.dkr.ecr.REGION.amazonaws.com/repository`. Raises RegistryError when it has another form."""
    host, _, name = reference.partition("/")
    registry = parse_host(host)
    if registry is None or not 2 <= len(name) <= 256 or not REPOSITORY.fullmatch(name):
        raise RegistryError(f"{reference}: not an ECR repository", "write ACCOUNT.dkr.ecr.REGION.amazonaws.com/name, lower-case")
    return registry, name


def credentials(registry_host: str) -> EcrCredentials:
    """Return user and password for a registry, from the environment's AWS credentials.

    Raises RegistryError when there are none, or when they are not allowed to log in.
    """
    registry = _registry(registry_host)
    with _explained(registry, "ecr:GetAuthorizationToken", "*"):
        response = _client(registry).get_authorization_token()
    try:
        token = response["authorizationData"][0]["authorizationToken"]
        username, _, password = base64.b64decode(token, validate=True).decode().partition(":")
    except (KeyError, IndexError, binascii.Error, UnicodeDecodeError) as error:
        raise RegistryError(f"{registry.host}: ECR returned no usable token", "run it again") from error
    return EcrCredentials(username, SecretStr(password))


def registry_credentials(registry_host: str) -> tuple[str, str]:
    """Return user and password as plain text, for `registry.Registry`."""
    pair = credentials(registry_host)
    return pair.username, pair.password.get_secret_value()


def ensure_repository(registry_host: str, name: str, *, immutable_tags: bool = True, scan_on_push: bool = True) -> EcrRepository:
    """Create a repository unless it exists; an existing one keeps its settings. Returns its settings.

    Raises RegistryError when it cannot be created.
    """
    registry, name = parse_repository(f"{registry_host}/{name}")
    client = _client(registry)
    try:
        with _explained(registry, "ecr:CreateRepository", f"repository/{name}"):
            repository = client.create_repository(
                registryId=registry.account,
                repositoryName=name,
                imageTagMutability="IMMUTABLE" if immutable_tags else "MUTABLE",
                imageScanningConfiguration={"scanOnPush": scan_on_push},
            )["repository"]
        created = True
    except client.exceptions.RepositoryAlreadyExistsException:
        with _explained(registry, "ecr:DescribeRepositories", f"repository/{name}"):
            repository = client.describe_repositories(registryId=registry.account, repositoryNames=[name])["repositories"][0]
        created = False
    return EcrRepository(
        uri=f"{registry.host}/{name}",
        immutable_tags=repository.get("imageTagMutability", "MUTABLE").startswith("IMMUTABLE"),
        scan_on_push=bool(repository.get("imageScanningConfiguration", {}).get("scanOnPush", False)),
        created=created,
    )


def repository_exists(registry_host: str, name: str) -> bool:
    """Return whether a repository exists. Raises RegistryError when ECR does not answer."""
    registry, name = parse_repository(f"{registry_host}/{name}")
    client = _client(registry)
    try:
        with _explained(registry, "ecr:DescribeRepositories", f"repository/{name}"):
            client.describe_repositories(registryId=registry.account, repositoryNames=[name])
    except client.exceptions.RepositoryNotFoundException:
        return False
    return True


def _registry(host: str) -> EcrRegistry:
    registry = parse_host(host)
    if registry is None:
        raise RegistryError(f"{host}: not an ECR registry", "write ACCOUNT.dkr.ecr.REGION.amazonaws.com")
    return registry


def _client(registry: EcrRegistry) -> "ECRClient":
    config = Config(connect_timeout=10, read_timeout=30, retries={"mode": "standard", "total_max_attempts": 5})
    with _explained(registry, "", ""):
        import boto3  # noqa: PLC0415 -- importing boto3 takes 0.5 s, and only ECR needs it

        return boto3.Session().client("ecr", region_name=registry.region, config=config)


@contextmanager
def _explained(registry: EcrRegistry, action: str, resource: str) -> Iterator[None]:
    """Turn errors of AWS into RegistryError, except the two that callers handle themselves."""
    try:
        yield
    except botocore.exceptions.ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        if code in ("RepositoryAlreadyExistsException", "RepositoryNotFoundException"):
            raise
        raise RegistryError(*_message_and_fix(registry, action, resource, code, error)) from error
    except (botocore.exceptions.HTTPClientError, botocore.exceptions.EndpointConnectionError) as error:
        raise RegistryError(f"{registry.host}: ECR is unreachable: {error}", "check the network, then run it again") from error
    except botocore.exceptions.NoCredentialsError as error:
        raise RegistryError(f"{registry.host}: no AWS credentials", LOG_IN) from error
    except botocore.exceptions.BotoCoreError as error:
        raise RegistryError(f"{registry.host}: {error}", LOG_IN) from error


def _message_and_fix(registry: EcrRegistry, action: str, resource: str, code: str, error: Exception) -> tuple[str, str]:
    if code in ("AccessDenied", "AccessDeniedException", "UnauthorizedOperation"):
        partition = "aws-cn" if registry.host.endswith(".cn") else "aws"
        arn = "*" if resource == "*" else f"arn:{partition}:ecr:{registry.region}:{registry.account}:{resource}"
        return (
            f"{registry.host}: the role is not allowed to {action}",
            f'add to its policy:\n    {{Effect: Allow, Action: "{action}", Resource: "{arn}"}}',
        )
    if code in ("ExpiredToken", "ExpiredTokenException", "UnrecognizedClientException", "InvalidClientTokenId"):
        return f"{registry.host}: the AWS credentials are expired or unknown", LOG_IN
    if code == "LimitExceededException":
        return (
            f"{registry.host}: the account's limit of repositories is reached",
            "delete some, or request a higher limit from AWS",
        )
    return f"{registry.host}: ECR refused {action}: {code}: {error}", "check the role and the name"
