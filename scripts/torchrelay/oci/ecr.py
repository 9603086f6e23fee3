"""Amazon ECR: which registry and region a host is, short-lived credentials for it, and repositories made as they should be."""

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
CREDENTIALS = "run `aws sso login`, set AWS_PROFILE, or in CI take a role with aws-actions/configure-aws-credentials"


@dataclass(frozen=True)
class EcrRegistry:
    """One account's registry in one region."""

    host: str
    account: str
    region: str


@dataclass(frozen=True)
class Credentials:
    """What the registry's HTTP API takes as basic authentication, for at most twelve hours."""

    username: str
    password: SecretStr


@dataclass(frozen=True)
class Repository:
    """A repository as it stands. `created` tells whether this call made it."""

    uri: str
    immutable_tags: bool
    scan_on_push: bool
    created: bool


def parse_host(host: str) -> EcrRegistry | None:
    """Return the registry of a host name, None when it is not one of ECR's."""
    found = HOST.fullmatch(host)
    return EcrRegistry(host, found["account"], found["region"]) if found else None


def is_ecr(host: str) -> bool:
    """Tell whether a registry's host name is one of ECR's."""
    return parse_host(host) is not None


def parse_repository(reference: str) -> tuple[EcrRegistry, str]:
    """Take `ACCOUNT.dkr.ecr.REGION.amazonaws.com/repository` apart.

    Raises RegistryError when it is not of that form.
    """
    host, _, name = reference.partition("/")
    registry = parse_host(host)
    if registry is None or not 2 <= len(name) <= 256 or not REPOSITORY.fullmatch(name):
        raise RegistryError(f"{reference}: not an ECR repository", "write ACCOUNT.dkr.ecr.REGION.amazonaws.com/name, lower-case")
    return registry, name


def credentials(registry_host: str) -> Credentials:
    """Return a user and password for a registry, made from the AWS credentials of the environment.

    Raises RegistryError when there are none, or they may not.
    """
    registry = _registry(registry_host)
    with _explained(registry, "ecr:GetAuthorizationToken", "*"):
        answer = _client(registry).get_authorization_token()
    try:
        token = answer["authorizationData"][0]["authorizationToken"]
        username, _, password = base64.b64decode(token, validate=True).decode().partition(":")
    except (KeyError, IndexError, binascii.Error, UnicodeDecodeError) as error:
        raise RegistryError(f"{registry.host}: ECR gave no usable token", "run it again") from error
    return Credentials(username, SecretStr(password))


def registry_credentials(registry_host: str) -> tuple[str, str]:
    """Return user and password in the clear, as `registry.Registry` sends them."""
    found = credentials(registry_host)
    return found.username, found.password.get_secret_value()


def ensure_repository(registry_host: str, name: str, *, immutable_tags: bool = True, scan_on_push: bool = True) -> Repository:
    """Make a repository unless it is there; one that is there keeps its settings, which are returned.

    Raises RegistryError when it cannot be made.
    """
    registry, name = parse_repository(f"{registry_host}/{name}")
    client = _client(registry)
    try:
        with _explained(registry, "ecr:CreateRepository", f"repository/{name}"):
            made = client.create_repository(
                registryId=registry.account,
                repositoryName=name,
                imageTagMutability="IMMUTABLE" if immutable_tags else "MUTABLE",
                imageScanningConfiguration={"scanOnPush": scan_on_push},
            )["repository"]
        created = True
    except client.exceptions.RepositoryAlreadyExistsException:
        with _explained(registry, "ecr:DescribeRepositories", f"repository/{name}"):
            made = client.describe_repositories(registryId=registry.account, repositoryNames=[name])["repositories"][0]
        created = False
    return Repository(
        uri=f"{registry.host}/{name}",
        immutable_tags=made.get("imageTagMutability", "MUTABLE").startswith("IMMUTABLE"),
        scan_on_push=bool(made.get("imageScanningConfiguration", {}).get("scanOnPush", False)),
        created=created,
    )


def repository_exists(registry_host: str, name: str) -> bool:
    """Tell whether a repository is there.

    Raises RegistryError when ECR does not say.
    """
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
        raise RegistryError(f"{host}: not a registry of ECR", "write ACCOUNT.dkr.ecr.REGION.amazonaws.com")
    return registry


def _client(registry: EcrRegistry) -> "ECRClient":
    retried = Config(connect_timeout=10, read_timeout=30, retries={"mode": "standard", "total_max_attempts": 5})
    with _explained(registry, "", ""):
        import boto3  # noqa: PLC0415 -- half a second that only AWS addresses need to pay

        return boto3.Session().client("ecr", region_name=registry.region, config=retried)


@contextmanager
def _explained(registry: EcrRegistry, action: str, resource: str) -> Iterator[None]:
    """Put what AWS refuses into words; the answers that a caller handles itself pass."""
    try:
        yield
    except botocore.exceptions.ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        if code in ("RepositoryAlreadyExistsException", "RepositoryNotFoundException"):
            raise
        raise RegistryError(*_words(registry, action, resource, code, error)) from error
    except (botocore.exceptions.HTTPClientError, botocore.exceptions.EndpointConnectionError) as error:
        raise RegistryError(f"{registry.host}: ECR cannot be reached: {error}", "check the network, run it again") from error
    except botocore.exceptions.NoCredentialsError as error:
        raise RegistryError(f"{registry.host}: no AWS credentials", CREDENTIALS) from error
    except botocore.exceptions.BotoCoreError as error:
        raise RegistryError(f"{registry.host}: {error}", CREDENTIALS) from error


def _words(registry: EcrRegistry, action: str, resource: str, code: str, error: Exception) -> tuple[str, str]:
    if code in ("AccessDenied", "AccessDeniedException", "UnauthorizedOperation"):
        partition = "aws-cn" if registry.host.endswith(".cn") else "aws"
        arn = "*" if resource == "*" else f"arn:{partition}:ecr:{registry.region}:{registry.account}:{resource}"
        return (
            f"{registry.host}: the role may not {action}",
            f'let it:\n    {{Effect: Allow, Action: "{action}", Resource: "{arn}"}}',
        )
    if code in ("ExpiredToken", "ExpiredTokenException", "UnrecognizedClientException", "InvalidClientTokenId"):
        return f"{registry.host}: the AWS credentials are expired or unknown", CREDENTIALS
    if code == "LimitExceededException":
        return f"{registry.host}: the account's limit of repositories is reached", "delete some, or ask AWS for more"
    return f"{registry.host}: ECR refuses {action}: {code}: {error}", "check the role and the name"
