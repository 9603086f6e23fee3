"""Amazon EKS without the aws CLI: a kubeconfig for one cluster, from the AWS credentials of the environment.

The token is a presigned GetCallerIdentity request; the cluster sends it to STS to learn the caller's identity. Its format:
kubernetes-sigs/aws-iam-authenticator `pkg/token/token.go` and aws/aws-cli `awscli/customizations/eks/get_token.py`.
"""

import base64
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import boto3
import botocore.exceptions
from botocore.auth import SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.config import Config

from torchrelay.core.errors import ClusterRefused
from torchrelay.core.text import printable, shown

ARN = re.compile(
    r"arn:(?P<partition>aws(?:-cn|-us-gov)?):eks:(?P<region>[a-z0-9-]+):(?P<account>\d{12}):cluster/(?P<name>[A-Za-z0-9][\w-]{0,99})"
)
PREFIX = "k8s-aws-v1."
CLUSTER_HEADER = "x-k8s-aws-id"
EXPIRES_S = 60  # of the request itself; the cluster accepts the token for 15 minutes from its date
USABLE = ("ACTIVE", "UPDATING")
CREDENTIALS = "set `aws-role` (torchrelay login), run `aws sso login`, or set AWS_PROFILE"


@dataclass(frozen=True)
class EksCluster:
    """The parts of a cluster's ARN."""

    arn: str
    region: str
    account: str
    name: str


def parse_arn(arn: str) -> EksCluster:
    """Parse `arn:aws:eks:REGION:ACCOUNT:cluster/NAME`.

    Raises ClusterRefused for any other form.
    """
    match = ARN.fullmatch(arn)
    if match is None:
        raise ClusterRefused(f"{shown(arn)} is not the ARN of an EKS cluster", "write arn:aws:eks:REGION:ACCOUNT:cluster/NAME")
    return EksCluster(arn, match["region"], match["account"], match["name"])


def kubeconfig(cluster_arn: str) -> dict[str, Any]:
    """Return a kubeconfig with server, authority and a token that is valid for 15 minutes (`api.EKS_LASTS_S`).

    Raises ClusterRefused.
    """
    cluster = parse_arn(cluster_arn)
    described = _described(cluster)
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": cluster_arn,
        "clusters": [
            {
                "name": cluster_arn,
                "cluster": {
                    "server": described["endpoint"],
                    "certificate-authority-data": described["certificateAuthority"]["data"],
                },
            }
        ],
        "contexts": [{"name": cluster_arn, "context": {"cluster": cluster_arn, "user": cluster_arn}}],
        "users": [{"name": cluster_arn, "user": {"token": token(cluster_arn)}}],
    }


def token(cluster_arn: str) -> str:
    """Return a bearer token for a cluster, valid for 15 minutes; no request is sent to AWS for it.

    Raises ClusterRefused when there are no credentials to sign with.
    """
    cluster = parse_arn(cluster_arn)
    with _explained(cluster):
        session = _session(cluster)
        credentials = session.get_credentials()
        if credentials is None:
            raise ClusterRefused(f"{cluster.name}: no AWS credentials", CREDENTIALS)
        endpoint = session.client("sts").meta.endpoint_url
        request = AWSRequest(
            method="GET", url=f"{endpoint}/?Action=GetCallerIdentity&Version=2011-06-15", headers={CLUSTER_HEADER: cluster.name}
        )
        SigV4QueryAuth(credentials.get_frozen_credentials(), "sts", cluster.region, expires=EXPIRES_S).add_auth(request)
    return PREFIX + base64.urlsafe_b64encode(str(request.url).encode()).decode().rstrip("=")


def _described(cluster: EksCluster) -> dict[str, Any]:
    with _explained(cluster):
        described: dict[str, Any] = dict(
            _session(cluster).client("eks", config=_config()).describe_cluster(name=cluster.name)["cluster"]
        )
    if described.get("arn") != cluster.arn:
        raise ClusterRefused(
            f"the AWS credentials belong to another account, whose {cluster.name} is {described.get('arn')}",
            f"use a role of account {cluster.account}, or correct `cluster` in model.yaml",
        )
    if described.get("status") not in USABLE:
        raise ClusterRefused(f"{cluster.name} is {described.get('status')}", "wait until it is ACTIVE")
    return described


def _session(cluster: EksCluster) -> Any:
    return boto3.Session(region_name=cluster.region)


def _config() -> Config:
    return Config(connect_timeout=10, read_timeout=30, retries={"mode": "standard", "total_max_attempts": 5})


@contextmanager
def _explained(cluster: EksCluster) -> Iterator[None]:
    """Turn AWS errors into ClusterRefused."""
    try:
        yield
    except botocore.exceptions.ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        raise ClusterRefused(*_message_and_fix(cluster, code, error)) from error
    except (botocore.exceptions.HTTPClientError, botocore.exceptions.EndpointConnectionError) as error:
        raise ClusterRefused(f"EKS in {cluster.region} is unreachable: {printable(str(error))}", "check the network") from error
    except botocore.exceptions.NoCredentialsError as error:
        raise ClusterRefused(f"{cluster.name}: no AWS credentials", CREDENTIALS) from error
    except botocore.exceptions.BotoCoreError as error:
        raise ClusterRefused(f"{cluster.name}: {printable(str(error))}", CREDENTIALS) from error


def _message_and_fix(cluster: EksCluster, code: str, error: Exception) -> tuple[str, str]:
    if code == "ResourceNotFoundException":
        return (
            f"there is no EKS cluster {cluster.name} in {cluster.region}",
            "correct `cluster` in model.yaml, or use a role of its account",
        )
    if code in ("AccessDenied", "AccessDeniedException"):
        return (
            f"{cluster.name}: the role is not allowed to eks:DescribeCluster",
            f'allow it:\n    {{Effect: Allow, Action: "eks:DescribeCluster", Resource: "{cluster.arn}"}}',
        )
    if code in ("ExpiredToken", "ExpiredTokenException", "UnrecognizedClientException", "InvalidClientTokenId"):
        return f"{cluster.name}: the AWS credentials are expired or unknown", CREDENTIALS
    return f"{cluster.name}: EKS refuses: {code}: {printable(str(error))}", "check the role and the cluster"
