"""Amazon EKS without the aws CLI: a kubeconfig for one cluster, made from the AWS credentials of the environment.

The token is a presigned GetCallerIdentity request; the cluster sends it to STS and so learns who asks. Its form:
kubernetes-sigs/aws-iam-authenticator `pkg/token/token.go` and aws/aws-cli `awscli/customizations/eks/get_token.py`.
"""

import base64
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

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
LASTS_S = 14 * 60
"""Seconds after which to make a new token: a minute before the cluster refuses it, as the aws CLI reckons."""
USABLE = ("ACTIVE", "UPDATING")
CREDENTIALS = "set `aws-role` (torchrelay login), run `aws sso login`, or set AWS_PROFILE"


@dataclass(frozen=True)
class Cluster:
    """One cluster, as its ARN names it."""

    arn: str
    region: str
    account: str
    name: str


def parse_arn(arn: str) -> Cluster:
    """Take `arn:aws:eks:REGION:ACCOUNT:cluster/NAME` apart.

    Raises ClusterRefused when it is not of that form.
    """
    found = ARN.fullmatch(arn)
    if found is None:
        raise ClusterRefused(f"{shown(arn)} is not the ARN of an EKS cluster", "write arn:aws:eks:REGION:ACCOUNT:cluster/NAME")
    return Cluster(arn, found["region"], found["account"], found["name"])


def kubeconfig(cluster_arn: str) -> dict[str, Any]:
    """Return a kubeconfig with server, authority and a token; make another one after `LASTS_S`.

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
    """Return a bearer token for a cluster, good for `LASTS_S` seconds; nothing is asked of AWS for it.

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


def _described(cluster: Cluster) -> dict[str, Any]:
    with _explained(cluster):
        found: dict[str, Any] = dict(
            _session(cluster).client("eks", config=_config()).describe_cluster(name=cluster.name)["cluster"]
        )
    if found.get("arn") != cluster.arn:
        raise ClusterRefused(
            f"the AWS credentials belong to another account, whose {cluster.name} is {found.get('arn')}",
            f"take a role of account {cluster.account}, or correct `cluster` in model.yaml",
        )
    if found.get("status") not in USABLE:
        raise ClusterRefused(f"{cluster.name} is {found.get('status')}", "wait until it is ACTIVE")
    return found


def _session(cluster: Cluster) -> Any:
    import boto3  # noqa: PLC0415 -- half a second that only AWS addresses need to pay

    return boto3.Session(region_name=cluster.region)


def _config() -> Config:
    return Config(connect_timeout=10, read_timeout=30, retries={"mode": "standard", "total_max_attempts": 5})


@contextmanager
def _explained(cluster: Cluster) -> Iterator[None]:
    """Put what AWS refuses into words."""
    try:
        yield
    except botocore.exceptions.ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        raise ClusterRefused(*_words(cluster, code, error)) from error
    except (botocore.exceptions.HTTPClientError, botocore.exceptions.EndpointConnectionError) as error:
        raise ClusterRefused(f"EKS in {cluster.region} cannot be reached: {printable(str(error))}", "check the network") from error
    except botocore.exceptions.NoCredentialsError as error:
        raise ClusterRefused(f"{cluster.name}: no AWS credentials", CREDENTIALS) from error
    except botocore.exceptions.BotoCoreError as error:
        raise ClusterRefused(f"{cluster.name}: {printable(str(error))}", CREDENTIALS) from error


def _words(cluster: Cluster, code: str, error: Exception) -> tuple[str, str]:
    if code == "ResourceNotFoundException":
        return (
            f"there is no EKS cluster {cluster.name} in {cluster.region}",
            "correct `cluster` in model.yaml, or take a role of its account",
        )
    if code in ("AccessDenied", "AccessDeniedException"):
        return (
            f"{cluster.name}: the role may not eks:DescribeCluster",
            f'let it:\n    {{Effect: Allow, Action: "eks:DescribeCluster", Resource: "{cluster.arn}"}}',
        )
    if code in ("ExpiredToken", "ExpiredTokenException", "UnrecognizedClientException", "InvalidClientTokenId"):
        return f"{cluster.name}: the AWS credentials are expired or unknown", CREDENTIALS
    return f"{cluster.name}: EKS refuses: {code}: {printable(str(error))}", "check the role and the cluster"
