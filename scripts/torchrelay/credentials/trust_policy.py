"""Why AWS refused a job's identity: what the token says, and the trust policy that would let it in."""

import json
import re

from torchrelay.core.errors import LoginFailed
from torchrelay.credentials.oidc import Identity, parse_subject

ISSUER = "token.actions.githubusercontent.com"
AUDIENCE = "sts.amazonaws.com"
TEMPLATE = "infra/aws/github-roles.yaml"
ROLE = re.compile(r"arn:(?P<partition>aws(?:-cn|-us-gov)?):iam::(?P<account>\d{12}):role/(?:[\w+=,.@-]+/)*[\w+=,.@-]{1,64}")


def subjects(identity: Identity) -> list[str]:
    """Return the values of `sub` that a trust policy should list for this job: both forms where the token has the ids."""
    sub = identity.claim("sub")
    parsed = parse_subject(sub)
    owner_id, repository_id = identity.claim("repository_owner_id"), identity.claim("repository_id")
    if parsed is None or not owner_id or not repository_id:
        return [sub] if sub else []
    return list(parsed.forms(owner_id, repository_id))


def statement(role: str, identity: Identity) -> str:
    """Return the statement of a trust policy that lets exactly this kind of job in, as JSON."""
    found = ROLE.fullmatch(role)
    partition, account = (found["partition"], found["account"]) if found else ("aws", "ACCOUNT")
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
    """Put STS's answer into words. STS never says which condition failed, so what it had to go by is shown."""
    shown = {name: identity.claim(name) for name in ("sub", "aud", "environment", "ref", "event_name", "job_workflow_ref")}
    told = "".join(f"\n    {name}: {value}" for name, value in shown.items() if value)
    if code == "AccessDenied":
        return LoginFailed(
            f"AWS does not let this job take {role}; its token says:{told}\n  {_suspect(identity)}",
            f"put this into the role's trust policy (or deploy {TEMPLATE}):\n{_indented(statement(role, identity))}",
        )
    if code == "InvalidIdentityToken" and "audience" in message.lower():
        return LoginFailed(
            f"AWS does not know the audience {shown['aud'] or AUDIENCE}",
            f"add {AUDIENCE} to the client ids of the account's identity provider {ISSUER}",
        )
    if code == "InvalidIdentityToken":
        return LoginFailed(
            f"AWS does not know who signed the token: the account of {role} has no identity provider {ISSUER}",
            f"deploy {TEMPLATE} with CreateProvider=true",
        )
    if code == "ExpiredTokenException":
        return LoginFailed("AWS found the identity token expired", "run the job again; on an own runner, set its clock")
    if code == "RegionDisabledException":
        return LoginFailed(f"STS is off in this region: {message}", "enable the region in the account, or name another aws-region")
    return LoginFailed(f"AWS refuses {role}: {code}: {message}", "check the role's ARN and its trust policy")


def _suspect(identity: Identity) -> str:
    """Say which claim most often stands in the way of a job like this one."""
    sub = identity.claim("sub")
    parsed = parse_subject(sub)
    if not sub:
        return "It has no `sub` that could be read."
    if parsed is None:
        return "Its `sub` is customised by the organisation, so a policy written for GitHub's own forms does not match."
    if parsed.context == "pull_request":
        return "A pull request's `sub` names no branch and no environment: roles for deploying refuse it, and should."
    if parsed.repository_id:
        return "Its `sub` carries the repository's numbers, as newer ones' do: a policy with the names alone does not match."
    if parsed.context.startswith("environment:"):
        return "A job with an `environment:` has that in its `sub` in place of the branch; a policy with `ref:` does not match."
    return "A job without an `environment:` has its branch in `sub`; a policy with `environment:` does not match."


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())
