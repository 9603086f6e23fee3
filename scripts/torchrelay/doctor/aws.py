"""What doctor asks of AWS and of GitHub's token service: who this is, and whether it may become the role.

Permissions are tried by the calls that need them, where these change nothing: ECR's token and description and the upload that is
cancelled (registry), GetObject (weights), DescribeCluster (cluster). What only a real push shows stays with the push.
"""

import re

from torchrelay.core.text import printable
from torchrelay.doctor.finding import Check, Subject, bad, good

CREDENTIALS = "set `aws-role` (torchrelay login), run `aws sso login`, or set AWS_PROFILE"
LONG_LIVED = re.compile(r"arn:aws[a-z-]*:iam::\d+:(?:user/.*|root)")


def identity(subject: Subject) -> Check | None:
    """Ask GitHub for the token that the role is taken with; the role itself is left to login."""
    from torchrelay.credentials import oidc, trust_policy  # noqa: PLC0415 -- requests

    role = subject.asked.aws_role
    if not role:
        return None
    if not trust_policy.ROLE.fullmatch(role):
        return bad("identity", f"{role!r} is not the ARN of a role", "write arn:aws:iam::ACCOUNT:role/NAME")
    who = oidc.identity(trust_policy.AUDIENCE, subject.asked.environment, sleep=lambda _: None)
    return good("identity", f"GitHub vouches for {who.claim('sub')}")


def aws(subject: Subject) -> Check | None:
    """Ask STS who this is, where something of AWS is named."""
    if not needs_aws(subject):
        return None
    import boto3  # noqa: PLC0415 -- half a second that only AWS addresses need to pay
    import botocore.exceptions  # noqa: PLC0415
    from botocore.config import Config  # noqa: PLC0415

    asked = subject.asked
    region = asked.aws_region or asked.environment.get("AWS_REGION") or asked.environment.get("AWS_DEFAULT_REGION") or "us-east-1"
    once = Config(connect_timeout=5, read_timeout=10, retries={"total_max_attempts": 2})
    try:
        arn = boto3.Session(region_name=region).client("sts", config=once).get_caller_identity()["Arn"]
    except botocore.exceptions.NoCredentialsError:
        return bad("aws", "no AWS credentials", CREDENTIALS)
    except botocore.exceptions.ClientError as error:
        code = error.response.get("Error", {}).get("Code", "")
        return bad("aws", f"the AWS credentials are refused: {code}", CREDENTIALS)
    except botocore.exceptions.BotoCoreError as error:
        return bad("aws", printable(str(error)), CREDENTIALS)
    if LONG_LIVED.fullmatch(arn) and asked.environment.get("GITHUB_ACTIONS") == "true":
        return bad("aws", f"{arn}: a long-lived key in a workflow", "delete it, and take a role: infra/aws/github-roles.yaml")
    return good("aws", arn)


def needs_aws(subject: Subject) -> bool:
    """Tell whether anything here is AWS's: the registry, the weights or the cluster.

    With a role to take, credentials come later: `identity` is looked at then.
    """
    from torchrelay.oci import ecr  # noqa: PLC0415 -- 0.1 s for botocore

    model = subject.model
    cluster = getattr(model.targets.kubernetes, "cluster", None) if model and subject.target == "kubernetes" else None
    weights = model is not None and model.weights.scheme == "s3" and not subject.asked.environment.get("AWS_ENDPOINT_URL_S3")
    named = weights or bool(cluster) or ecr.is_ecr(subject.asked.repository.partition("/")[0])
    return named and (not subject.asked.aws_role or bool(subject.asked.environment.get("AWS_ACCESS_KEY_ID")))
