"""EKS over moto, which fakes the API; the token is parsed, and moto's STS returns the identity in it."""

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import boto3
import pytest
import requests
from botocore.auth import SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from tests import messages
from tests.errors import fails
from tests.integration.accounts import answering, moto
from tests.integration.weights_server import serving
from torchrelay.core.errors import ClusterRefused
from torchrelay.targets.kubernetes import eks

REGION = "eu-west-1"


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    with moto(monkeypatch, tmp_path) as address:
        yield address


@pytest.fixture
def cluster(aws: str) -> dict[str, Any]:
    """Create a cluster and return EKS's description of it."""
    assert aws
    client = boto3.Session(region_name=REGION).client("eks")
    reply = client.create_cluster(
        name="serving", roleArn="arn:aws:iam::123456789012:role/eks", resourcesVpcConfig={"subnetIds": ["subnet-1"]}
    )
    return dict(reply["cluster"])


def presigned(token: str) -> str:
    assert token.startswith("k8s-aws-v1.")
    assert "=" not in token
    body = token.removeprefix("k8s-aws-v1.")
    return base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)).decode()


def test_the_kubernetes_client_accepts_the_kubeconfig(cluster: dict[str, Any]) -> None:
    config = eks.kubeconfig(cluster["arn"])
    (named,) = config["clusters"]
    assert named["cluster"] == {
        "server": cluster["endpoint"],
        "certificate-authority-data": cluster["certificateAuthority"]["data"],
    }
    assert config["current-context"] == config["contexts"][0]["name"] == cluster["arn"]
    (user,) = config["users"]
    assert list(user["user"]) == ["token"]


def test_the_token_is_a_presigned_get_caller_identity_request(cluster: dict[str, Any], aws: str) -> None:
    url = presigned(eks.token(cluster["arn"]))
    query = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
    assert url.startswith(aws)
    assert (query["Action"], query["Version"]) == ("GetCallerIdentity", "2011-06-15")
    assert query["X-Amz-SignedHeaders"] == "host;x-k8s-aws-id"
    assert query["X-Amz-Expires"] == "60"
    assert query["X-Amz-Credential"].split("/")[2:] == [REGION, "sts", "aws4_request"]
    route = {
        "Authorization": f"AWS4-HMAC-SHA256 Credential={query['X-Amz-Credential']}"
    }  # moto finds the service by this header alone
    answer = requests.get(url, headers={"x-k8s-aws-id": "serving", **route}, timeout=5)
    assert "<Arn>arn:aws:sts::123456789012:user/moto</Arn>" in answer.text


def test_the_signature_is_over_the_clusters_name(cluster: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """botocore computes the same signature for the same date, and another one for another cluster's name."""
    import botocore.auth

    url = presigned(eks.token(cluster["arn"]))
    query = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
    base = f"{url.partition('?')[0]}?Action=GetCallerIdentity&Version=2011-06-15"
    stamp = query["X-Amz-Date"]

    class Clock:
        def strftime(self, form: str) -> str:
            return stamp if "T" in form else stamp[:8]

    monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda *_, **__: Clock())

    def signature(name: str) -> str:
        request = AWSRequest(method="GET", url=base, headers={"x-k8s-aws-id": name})
        SigV4QueryAuth(Credentials("testing", "testing"), "sts", REGION, expires=60).add_auth(request)
        return parse_qs(urlsplit(str(request.url)).query)["X-Amz-Signature"][0]

    assert signature("serving") == query["X-Amz-Signature"]
    assert signature("other") != query["X-Amz-Signature"]


@pytest.mark.usefixtures("aws")
def test_a_real_endpoint_is_the_regions_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    url = presigned(eks.token("arn:aws:eks:eu-west-1:123456789012:cluster/serving"))
    assert url.startswith("https://sts.eu-west-1.amazonaws.com/?Action=GetCallerIdentity")


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize(
    ("arn", "message"),
    [
        ("arn:aws:eks:eu-west-1:123456789012:cluster/none", "there is no EKS cluster none in eu-west-1"),
        ("arn:aws:eks:us-east-1:123456789012:cluster/serving", "there is no EKS cluster serving in us-east-1"),
        ("arn:aws:eks:eu-west-1:999999999999:cluster/serving", "belong to another account"),
        ("serving", "is not the ARN"),
        ("arn:aws:eks:eu-west-1:123456789012:cluster/a/b", "is not the ARN"),
    ],
)
def test_a_missing_cluster_is_an_error(arn: str, message: str) -> None:
    with pytest.raises(ClusterRefused, match=message):
        eks.kubeconfig(arn)


@pytest.mark.usefixtures("aws")
@pytest.mark.parametrize(
    ("status", "code", "message", "fix"),
    [
        (
            403,
            "AccessDeniedException",
            "allowed to eks:DescribeCluster",
            'Action: "eks:DescribeCluster", Resource: "arn:aws:eks:',
        ),
        (403, "ExpiredTokenException", "expired or unknown", "aws sso login"),
        (400, "InvalidParameterException", "EKS refuses: InvalidParameterException", "check the role"),
    ],
)
def test_refusals_of_eks_become_errors_with_a_fix(
    monkeypatch: pytest.MonkeyPatch, status: int, code: str, message: str, fix: str
) -> None:
    with serving(b"") as stand_in:
        stand_in.next = [answering(status, {"__type": code, "code": code, "message": "no"})] * 9
        monkeypatch.setenv("AWS_ENDPOINT_URL", stand_in.url)
        with pytest.raises(ClusterRefused, match=message) as caught:
            eks.kubeconfig("arn:aws:eks:eu-west-1:123456789012:cluster/serving")
    assert fix in caught.value.fix


@pytest.mark.parametrize("status", ["CREATING", "FAILED", "DELETING"])
def test_an_inactive_cluster_is_refused(cluster: dict[str, Any], monkeypatch: pytest.MonkeyPatch, status: str) -> None:
    with serving(b"") as stand_in:
        described = {key: cluster[key] for key in ("arn", "endpoint", "certificateAuthority")}
        stand_in.next = [answering(200, {"cluster": described | {"status": status}})]
        monkeypatch.setenv("AWS_ENDPOINT_URL", stand_in.url)
        with pytest.raises(ClusterRefused, match=f"serving is {status}"):
            eks.kubeconfig(cluster["arn"])


def test_without_credentials_the_fix_is_to_log_in(cluster: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    for function in (eks.kubeconfig, eks.token):
        with fails(ClusterRefused, words=messages.NO_AWS_CREDENTIALS) as caught:
            function(cluster["arn"])
        assert "aws-role" in caught.value.fix
