"""Explains why AWS refused a job's identity: the claims of its token, and the trust policy that would accept it."""

import json
import re

from torchrelay.core.errors import LoginFailed
from torchrelay.credentials.oidc import Identity, parse_subject

ISSUER = "token.actions.githubusercontent.com"
AUDIENCE = "sts.amazonaws.com"
TEMPLATE = "infra/aws/github-roles.yaml"
ROLE = re.compile(r"arn:(?P<partition>aws(?:-cn|-us-gov)?):iam::(?P<account>\d{12}):role/(?:[\w+=,.@-]+/)*[\w+=,.@-]{1,64}")


def subjects(identity: Identity) -> list[str]:
    """Return the values of `sub` that a trust policy should list for this job: both forms when the token has the ids."""
    sub = identity.claim("sub")
    parsed = parse_subject(sub)
    owner_id, repository_id = identity.claim("repository_owner_id"), identity.claim("repository_id")
    if parsed is None or not owner_id or not repository_id:
        return [sub] if sub else []
    return list(parsed.forms(owner_id, repository_id))


def statement(role: str, identity: Identity) -> str:
    """Return the trust policy statement, as JSON, that accepts exactly this kind of job."""
    match = ROLE.fullmatch(role)
    partition, account = (match["partition"], match["account"]) if match else ("aws", "ACCOUNT")
    equals = {f"{ISSUER}:aud": AUDIENCE, f"{ISSUER}:sub": subjects(identity)}
    return json.dumps(
        {
            "Effect": "Allow",
            "Action": "sts:AssumeRoleWithWebIdentity",
            "Principal": {"Federated": f"arn:{partition}:iam::{account}:oidc-provider/{ISSUER}"},
            "Condition": {"StringEquals": equals},
        },
        indent=2,
    )


def refused(role: str, code: str, message: str, identity: Identity) -> LoginFailed:
    """Return the error for STS's refusal. STS never names the failed condition, so the message shows the claims."""
    claims = {name: identity.claim(name) for name in ("sub", "aud", "environment", "ref", "event_name", "job_workflow_ref")}
    listed = "".join(f"\n    {name}: {value}" for name, value in claims.items() if value)
    if code == "AccessDenied":
        return LoginFailed(
            f"AWS does not let this job take {role}; its token says:{listed}\n  {_suspect(identity)}",
            f"put this into the role's trust policy (or deploy {TEMPLATE}):\n{_indented(statement(role, identity))}",
        )
    if code == "InvalidIdentityToken" and "audience" in message.lower():
        return LoginFailed(
            f"AWS does not know the audience {claims['aud'] or AUDIENCE}",
            f"add {AUDIENCE} to the client ids of the account's identity provider {ISSUER}",
        )
    if code == "InvalidIdentityToken":
        return LoginFailed(
            f"AWS does not know the token's issuer: the account of {role} has no identity provider {ISSUER}",
            f"deploy {TEMPLATE} with CreateProvider=true",
        )
    if code == "ExpiredTokenException":
        return LoginFailed(
            "AWS says that the identity token has expired", "run the job again; if self-hosted, check the runner's clock"
        )
    if code == "RegionDisabledException":
        return LoginFailed(f"STS is disabled in this region: {message}", "enable the region, or use another aws-region")
    return LoginFailed(f"AWS refuses {role}: {code}: {message}", "check the role's ARN and its trust policy")


def _suspect(identity: Identity) -> str:
    """Return which claim is the most likely reason for a job like this one."""
    sub = identity.claim("sub")
    parsed = parse_subject(sub)
    if not sub:
        return "It has no readable `sub`."
    if parsed is None:
        return "Its `sub` is customised by the organisation, so a policy written for GitHub's own forms does not match."
    if parsed.context == "pull_request":
        return "A pull request's `sub` has no branch and no environment: a role for deploying should refuse it, and does."
    if parsed.repository_id:
        return "Its `sub` contains the repository's ids, as in all newer repositories: a policy with only the names does not match."
    if parsed.context.startswith("environment:"):
        return "A job with an `environment:` has that in its `sub` instead of the branch; a policy with `ref:` does not match."
    return "A job without an `environment:` has its branch in `sub`; a policy with `environment:` does not match."


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())
