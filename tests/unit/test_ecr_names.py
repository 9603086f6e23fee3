"""The names of ECR's registries and repositories."""

import pytest

from tests import messages
from tests.errors import fails
from torchrelay.core.errors import RegistryError
from torchrelay.oci import ecr

ACCOUNT = "123456789012"


@pytest.mark.parametrize(
    ("host", "region"),
    [
        (f"{ACCOUNT}.dkr.ecr.eu-west-1.amazonaws.com", "eu-west-1"),
        (f"{ACCOUNT}.dkr.ecr.cn-north-1.amazonaws.com.cn", "cn-north-1"),
        (f"{ACCOUNT}.dkr.ecr-fips.us-gov-west-1.amazonaws.com", "us-gov-west-1"),
        (f"{ACCOUNT}.dkr-ecr.us-east-1.on.aws", "us-east-1"),
    ],
)
def test_a_host_contains_account_and_region(host: str, region: str) -> None:
    assert ecr.parse_host(host) == ecr.EcrRegistry(host, ACCOUNT, region)


@pytest.mark.parametrize(
    "host",
    [
        "ghcr.io",
        "localhost:5000",
        f"{ACCOUNT}.dkr.ecr.eu-west-1.amazonaws.com.evil.example",
        f"evil.{ACCOUNT}.dkr.ecr.eu-west-1.amazonaws.com",
        "12345.dkr.ecr.eu-west-1.amazonaws.com",
        f"{ACCOUNT}.dkr.ecr.eu-west-1.amazonaws.com:443",
    ],
)
def test_any_other_host_is_not_ecr(host: str) -> None:
    assert not ecr.is_ecr(host)
    with fails(RegistryError, words=messages.NOT_ECR):
        ecr.credentials(host)


def test_a_repository_is_a_registry_and_a_name() -> None:
    registry, name = ecr.parse_repository(f"{ACCOUNT}.dkr.ecr.eu-west-1.amazonaws.com/team/digits")
    assert (registry.account, registry.region, name) == (ACCOUNT, "eu-west-1", "team/digits")


@pytest.mark.parametrize("name", ["", "A", "Digits", "a//b", "../x", "x" * 257, "digits:tag", "digits@sha256:0"])
def test_a_name_that_ecr_would_refuse_is_refused_here(name: str) -> None:
    with fails(RegistryError, words=messages.NOT_ECR_REPOSITORY):
        ecr.parse_repository(f"{ACCOUNT}.dkr.ecr.eu-west-1.amazonaws.com/{name}")
