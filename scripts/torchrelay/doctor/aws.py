"""Doctor's checks of AWS and of GitHub's token service: the identity of the job, and whether AWS accepts its credentials.

Other checks test permissions with the calls that need them, if these change nothing: ECR's token and description and an upload that
is cancelled (registry), GetObject (weights), DescribeCluster (cluster). Only a real push can test the rest.
"""

import re

from torchrelay.core.text import printable
from torchrelay.credentials import oidc, trust_policy
from torchrelay.doctor.finding import Finding, Subject, bad, good

CREDENTIALS = "set `aws-role` (torchrelay login), run `aws sso login`, or set AWS_PROFILE"
LONG_LIVED = re.compile(r"arn:aws[a-z-]*:iam::\d+:(?:user/.*|root)")


def identity(subject: Subject) -> Finding | None:
    """Ask GitHub for the identity token; assuming the role itself is left to login."""
    role = subject.options.aws_role
    if not role:
        return None
    if not trust_policy.ROLE.fullmatch(role):
        return bad("identity", f"{role!r} is not the ARN of a role", "write arn:aws:iam::ACCOUNT:role/NAME")
    identity_token = oidc.identity(trust_policy.AUDIENCE, subject.options.environment, sleep=lambda _: None)
    return good("identity", f"GitHub identifies the job as {identity_token.claim('sub')}")


def aws(subject: Subject) -> Finding | None:
    """Ask STS for the identity of the credentials, if anything here uses AWS."""
    if not needs_aws(subject):
        return None
    import boto3  # noqa: PLC0415 -- 0.4 s, only for models that use AWS
    import botocore.exceptions  # noqa: PLC0415 -- part of those 0.4 s
    from botocore.config import Config  # noqa: PLC0415 -- part of those 0.4 s

    options, environment = subject.options, subject.options.environment
    region = options.aws_region or environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION") or "us-east-1"
    once = Config(connect_timeout=5, read_timeout=10, retries={"total_max_attempts": 2})
    try:
        arn = boto3.Session(region_name=region).client("sts", config=once).get_caller_identity()["Arn"]
    except botocore.exceptions.NoCredentialsError:
        return bad("aws", "there are no AWS credentials", CREDENTIALS)
    except botocore.exceptions.ClientError as error:
        code = error.response.get("Error", {}).get("Code", "")
        return bad("aws", f"AWS rejected the credentials: {code}", CREDENTIALS)
    except botocore.exceptions.BotoCoreError as error:
        return bad("aws", printable(str(error)), CREDENTIALS)
    if LONG_LIVED.fullmatch(arn) and environment.get("GITHUB_ACTIONS") == "true":
        return bad("aws", f"the workflow uses a long-lived key: {arn}", "delete it and use a role: infra/aws/github-roles.yaml")
    return good("aws", arn)


def needs_aws(subject: Subject) -> bool:
    """Return whether registry, weights or cluster are on AWS and the credentials must exist already.

    With a role to assume they come later, from login; then `identity` checks the job's token.
    """
    from torchrelay.oci import ecr  # noqa: PLC0415 -- 0.4 s for botocore, only for models that use AWS

    model = subject.model
    cluster = getattr(model.targets.kubernetes, "cluster", None) if model and subject.target == "kubernetes" else None
    weights = model is not None and model.weights.scheme == "s3" and not subject.options.environment.get("AWS_ENDPOINT_URL_S3")
    on_aws = weights or bool(cluster) or ecr.is_ecr(subject.options.repository.partition("/")[0])
    return on_aws and (not subject.options.aws_role or bool(subject.options.environment.get("AWS_ACCESS_KEY_ID")))
