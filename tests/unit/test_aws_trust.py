"""What AWS refused, in words: the claims, which one most likely stands in the way, and the policy that lets the job in."""

import json

import pytest
from pydantic import SecretStr

from torchrelay.credentials import trust_policy
from torchrelay.credentials.oidc import Identity

ROLE = "arn:aws:iam::123456789012:role/deploy"
IDS = {"repository_owner_id": "7", "repository_id": "8", "aud": "sts.amazonaws.com"}


def job(sub: str, **claims: str) -> Identity:
    return Identity(SecretStr("the-token"), {"sub": sub, **claims})


@pytest.mark.parametrize("sub", ["repo:acme/serving:environment:production", "repo:acme@7/serving@8:environment:production"])
def test_the_policy_lists_both_forms(sub: str) -> None:
    policy = json.loads(trust_policy.statement(ROLE, job(sub, **IDS)))
    assert policy == {
        "Effect": "Allow",
        "Action": "sts:AssumeRoleWithWebIdentity",
        "Principal": {"Federated": "arn:aws:iam::123456789012:oidc-provider/token.actions.githubusercontent.com"},
        "Condition": {
            "StringEquals": {
                "token.actions.githubusercontent.com:aud": "sts.amazonaws.com",
                "token.actions.githubusercontent.com:sub": [
                    "repo:acme/serving:environment:production",
                    "repo:acme@7/serving@8:environment:production",
                ],
            }
        },
    }


def test_the_partition_is_the_roles() -> None:
    policy = json.loads(trust_policy.statement("arn:aws-cn:iam::123456789012:role/x/deploy", job("repo:a/b:pull_request")))
    assert policy["Principal"]["Federated"].startswith("arn:aws-cn:iam::123456789012:oidc-provider/")


@pytest.mark.parametrize(
    ("sub", "suspect"),
    [
        ("repo:acme@7/serving@8:environment:production", "contains the repository's ids"),
        ("repo:acme/serving:environment:production", "a policy with `ref:` does not match"),
        ("repo:acme/serving:ref:refs/heads/main", "a policy with `environment:` does not match"),
        ("repo:acme/serving:pull_request", "has no branch and no environment"),
        ("repository_id:8:context", "customised by the organisation"),
        ("", "no readable `sub`"),
    ],
)
def test_access_denied_names_the_claim_and_shows_the_policy(sub: str, suspect: str) -> None:
    error = trust_policy.refused(
        ROLE, "AccessDenied", "Not authorized", job(sub, **IDS, job_workflow_ref="o/d/.github/workflows/serve.yml@v1")
    )
    assert suspect in error.message
    assert f"sub: {sub}" in error.message or not sub
    assert "job_workflow_ref: o/d/.github/workflows/serve.yml@v1" in error.message
    assert "sts:AssumeRoleWithWebIdentity" in error.fix
    assert trust_policy.TEMPLATE in error.fix
    assert "the-token" not in str(error)


@pytest.mark.parametrize(
    ("code", "text", "message", "fix"),
    [
        ("InvalidIdentityToken", "Incorrect token audience", "audience", "client ids"),
        ("InvalidIdentityToken", "No OpenIDConnect provider found", "no identity provider", "CreateProvider=true"),
        ("ExpiredTokenException", "", "expired", "run the job again"),
        ("RegionDisabledException", "STS is not activated", "disabled in this region", "another aws-region"),
        ("ValidationError", "odd", "ValidationError: odd", "ARN"),
    ],
)
def test_other_refusals_have_their_own_fix(code: str, text: str, message: str, fix: str) -> None:
    error = trust_policy.refused(ROLE, code, text, job("repo:a/b:pull_request"))
    assert message in error.message
    assert fix in error.fix


@pytest.mark.parametrize(
    ("arn", "legal"),
    [
        (ROLE, True),
        ("arn:aws:iam::123456789012:role/path/to/deploy", True),
        ("arn:aws-us-gov:iam::123456789012:role/x", True),
        ("arn:aws:iam::123456789012:user/x", False),
        ("arn:aws:iam::12345:role/x", False),
        ("deploy", False),
        (f"{ROLE}\n", False),
    ],
)
def test_the_arn_of_a_role_is_known(arn: str, legal: bool) -> None:
    assert (trust_policy.ROLE.fullmatch(arn) is not None) == legal
