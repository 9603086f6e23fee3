"""infra/aws: linted, deployed into moto's CloudFormation, and its policies judged by the evaluator in policies.py.

Both stand in for AWS: moto makes the roles and evaluates nothing, the evaluator knows what these policies use.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from cfnlint.decode import cfn_yaml  # type: ignore[import-untyped] # no types are published

from tests.integration import policies
from tests.integration.accounts import moto
from torchrelay.core.paths import ROOT
from torchrelay.credentials.trust_policy import TEMPLATE

pytestmark = pytest.mark.filterwarnings("ignore:Tried to parse AWS")  # what moto does not know, see below
FILE = ROOT / TEMPLATE
REGION, ACCOUNT = "eu-west-1", "123456789012"
PROVIDER = f"arn:aws:iam::{ACCOUNT}:oidc-provider/token.actions.githubusercontent.com"
GIVEN = {"RepositoryOwner": "acme", "RepositoryOwnerId": "7", "RepositoryName": "serving", "RepositoryId": "8"}
ALL = {
    "CreateRepositories": "true",
    "ClusterName": "serving",
    "WeightsBucket": "acme-weights",
    "WeightsPrefix": "digits/",
    "WeightsKeyArn": f"arn:aws:kms:{REGION}:{ACCOUNT}:key/1-2",
}
ECR = f"arn:aws:ecr:{REGION}:{ACCOUNT}:repository"
CLAIMS = {
    "aud": "sts.amazonaws.com",
    "repository_id": "8",
    "job_workflow_ref": "acme/serving/.github/workflows/x.yml@refs/heads/main",
}
REGISTRY_ACTIONS = {
    # ECR requires these for the registry protocol (registry.py), which does not go through boto3:
    # https://docs.aws.amazon.com/AmazonECR/latest/userguide/image-push-iam.html, and for referrers BatchGetImage again
    "ecr:BatchCheckLayerAvailability",
    "ecr:BatchGetImage",
    "ecr:CompleteLayerUpload",
    "ecr:GetDownloadUrlForLayer",
    "ecr:InitiateLayerUpload",
    "ecr:PutImage",
    "ecr:UploadLayerPart",
}
WITHOUT_PERMISSION = {"sts:GetCallerIdentity", "sts:AssumeRoleWithWebIdentity"}  # needs none; is the trust policy's
IMPLIED = {
    "s3:GetObjectVersion",  # GetObject with a version, as s3://bucket/key?versionId= asks
    "kms:Decrypt",  # what S3 does with an encrypted object for who reads it
}


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    with moto(monkeypatch, tmp_path) as address:
        yield address


def deployed(**parameters: str) -> dict[str, str]:
    """Deploy the template and return its outputs."""
    client = boto3.Session(region_name=REGION).client("cloudformation")
    values = [{"ParameterKey": key, "ParameterValue": value} for key, value in (GIVEN | parameters).items()]
    client.create_stack(StackName="roles", TemplateBody=FILE.read_text(), Parameters=values, Capabilities=["CAPABILITY_IAM"])
    (stack,) = client.describe_stacks(StackName="roles")["Stacks"]
    assert stack["StackStatus"] == "CREATE_COMPLETE"
    return {one["OutputKey"]: one["OutputValue"] for one in stack.get("Outputs", [])}


def role(arn: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the trust policy and the inline policies of a role."""
    client, name = boto3.Session().client("iam"), arn.rpartition("/")[2]
    reply: dict[str, Any] = dict(client.get_role(RoleName=name)["Role"])
    documents: list[Any] = [
        client.get_role_policy(RoleName=name, PolicyName=one)["PolicyDocument"]
        for one in client.list_role_policies(RoleName=name)["PolicyNames"]
    ]
    return reply["AssumeRolePolicyDocument"], documents


def test_every_template_is_clean() -> None:
    program = Path(sys.executable).with_name("cfn-lint")
    done = subprocess.run([program, *sorted((ROOT / "infra" / "aws").glob("*.yaml"))], text=True, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_every_parameter_is_described() -> None:
    text = FILE.read_text()
    names = re.findall(r"^  (\w+):\n    Type: String", text, re.M)
    assert len(names) == 15
    for name in names:
        assert re.search(rf"^  {name}:\n(?:    .+\n)*?    Description: .{{20,}}", text, re.M), name


@pytest.mark.usefixtures("aws")
def test_the_minimum_is_one_role() -> None:
    outputs = deployed()
    assert set(outputs) == {"DeployRoleArn", "Region", "Registry"}
    assert outputs["Registry"] == f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/models/"
    client = boto3.Session().client("iam")
    assert [one["RoleName"] for one in client.list_roles()["Roles"]] == [outputs["DeployRoleArn"].rpartition("/")[2]]


def test_the_resources_that_moto_does_not_create() -> None:
    """moto's CloudFormation does not support these two; they are read from the template."""
    resources = cfn_yaml.load(str(FILE))["Resources"]
    assert resources["Provider"]["Condition"] == "MakeProvider"
    assert resources["Provider"]["Properties"] == {
        "Url": "https://token.actions.githubusercontent.com",
        "ClientIdList": ["sts.amazonaws.com"],
    }
    assert resources["DeployAccess"]["Condition"] == "HasCluster"
    assert resources["DeployAccess"]["Properties"]["KubernetesGroups"] == ["torchrelay-deployers"]


@pytest.mark.usefixtures("aws")
def test_the_subjects_that_can_assume_the_deploy_role() -> None:
    trust, _ = role(deployed()["DeployRoleArn"])
    for sub in ("repo:acme/serving:environment:production", "repo:acme@7/serving@8:environment:production"):
        assert policies.trusted(trust, PROVIDER, CLAIMS | {"sub": sub})
        assert not policies.trusted(trust, PROVIDER, CLAIMS | {"sub": sub, "aud": "other"})
        assert not policies.trusted(trust, PROVIDER, CLAIMS | {"sub": sub, "repository_id": "9"}), "the name went to somebody else"
        assert not policies.trusted(trust, PROVIDER, {"sub": sub, "aud": "sts.amazonaws.com"})
        assert not policies.trusted(trust, "arn:aws:iam::123456789012:oidc-provider/evil.example", CLAIMS | {"sub": sub})
    for sub in (
        "repo:acme/serving:ref:refs/heads/main",
        "repo:acme/serving:pull_request",
        "repo:acme/serving:environment:staging",
        "repo:acme/serving:environment:production2",
        "repo:acme/serving2:environment:production",
        "repo:acme2/serving:environment:production",
        "repo:acme@7/serving@9:environment:production",
        "repo:acme@9/serving@8:environment:production",
        "repo:acme@7/evil@8/serving@8:environment:production",
        "repo:acme@1/evil@2:environment:x/serving@8:environment:production",
        "repo:Acme/Serving:environment:production",
        "",
    ):
        assert not policies.trusted(trust, PROVIDER, CLAIMS | {"sub": sub}), sub


@pytest.mark.usefixtures("aws")
def test_only_the_named_workflow_may_deploy() -> None:
    pattern = "org/deploy/.github/workflows/serve.yml@refs/tags/v1.*"
    outputs = deployed(WorkflowRef=pattern, WeightsBucket="acme-weights")
    claims = CLAIMS | {"job_workflow_ref": "org/deploy/.github/workflows/serve.yml@refs/tags/v1.2.3"}
    for arn, sub in (
        (outputs["DeployRoleArn"], "repo:acme/serving:environment:production"),
        (outputs["WeightsRoleArn"], "repo:acme/serving:ref:refs/heads/main"),
    ):
        trust, _ = role(arn)
        assert policies.trusted(trust, PROVIDER, claims | {"sub": sub})
        assert not policies.trusted(trust, PROVIDER, CLAIMS | {"sub": sub})


@pytest.mark.usefixtures("aws")
@pytest.mark.parametrize("pull_requests", ["true", "false"])
def test_the_subjects_that_can_assume_the_weights_role(pull_requests: str) -> None:
    trust, _ = role(deployed(WeightsBucket="acme-weights", PullRequestsReadWeights=pull_requests)["WeightsRoleArn"])
    for repository in ("acme/serving", "acme@7/serving@8"):
        for context, expected in (
            ("ref:refs/heads/main", True),
            ("pull_request", pull_requests == "true"),
            ("ref:refs/heads/gh-readonly-queue/main/pr-1-abc", pull_requests == "true"),
            ("ref:refs/heads/other", False),
            ("ref:refs/heads/gh-readonly-queue/other/pr-1", False),
            ("environment:production", False),
        ):
            assert policies.trusted(trust, PROVIDER, CLAIMS | {"sub": f"repo:{repository}:{context}"}) == expected, context
    assert not policies.trusted(trust, PROVIDER, CLAIMS | {"sub": "repo:evil/serving:pull_request"})


@pytest.mark.usefixtures("aws")
def test_the_rights_of_the_deploy_role() -> None:
    outputs = deployed(**ALL)
    _, documents = role(outputs["DeployRoleArn"])
    cluster = f"arn:aws:eks:{REGION}:{ACCOUNT}:cluster"
    for action in [*REGISTRY_ACTIONS, "ecr:DescribeRepositories", "ecr:CreateRepository"]:
        assert policies.allowed(documents, action, f"{ECR}/models/digits"), action
        assert not policies.allowed(documents, action, f"{ECR}/models2/digits"), action
        assert not policies.allowed(documents, action, f"{ECR}/other"), action
        assert not policies.allowed(documents, action, f"{ECR}/models/digits".replace(ACCOUNT, "999999999999")), action
    assert policies.allowed(documents, "ecr:GetAuthorizationToken", "*")
    assert policies.allowed(documents, "eks:DescribeCluster", f"{cluster}/serving")
    assert not policies.allowed(documents, "eks:DescribeCluster", f"{cluster}/other")
    for action, resource in (
        ("ecr:DeleteRepository", f"{ECR}/models/digits"),
        ("ecr:BatchDeleteImage", f"{ECR}/models/digits"),
        ("ecr:SetRepositoryPolicy", f"{ECR}/models/digits"),
        ("ecr:PutImageTagMutability", f"{ECR}/models/digits"),
        ("eks:UpdateClusterConfig", f"{cluster}/serving"),
        ("eks:AssociateAccessPolicy", f"{cluster}/serving"),
        ("s3:GetObject", "arn:aws:s3:::acme-weights/digits/model.pt"),
        ("iam:PassRole", f"arn:aws:iam::{ACCOUNT}:role/x"),
        ("sts:AssumeRole", f"arn:aws:iam::{ACCOUNT}:role/x"),
    ):
        assert not policies.allowed(documents, action, resource), action


@pytest.mark.usefixtures("aws")
def test_creating_repositories_and_describing_clusters_are_optional() -> None:
    _, documents = role(deployed()["DeployRoleArn"])
    assert not policies.allowed(documents, "ecr:CreateRepository", f"{ECR}/models/digits")
    assert not policies.allowed(documents, "eks:DescribeCluster", f"arn:aws:eks:{REGION}:{ACCOUNT}:cluster/serving")


@pytest.mark.usefixtures("aws")
def test_the_rights_of_the_weights_role() -> None:
    _, documents = role(deployed(**ALL)["WeightsRoleArn"])
    file, key = "arn:aws:s3:::acme-weights/digits/model.pt", ALL["WeightsKeyArn"]
    by_s3 = {"kms:ViaService": f"s3.{REGION}.amazonaws.com"}
    assert policies.allowed(documents, "s3:GetObject", file)
    assert policies.allowed(documents, "s3:GetObjectVersion", file)
    assert policies.allowed(documents, "kms:Decrypt", key, by_s3)
    assert not policies.allowed(documents, "kms:Decrypt", key)
    assert not policies.allowed(documents, "kms:Decrypt", key.replace("1-2", "3-4"), by_s3)
    for action, resource in (
        ("s3:GetObject", "arn:aws:s3:::acme-weights/other/model.pt"),
        ("s3:GetObject", "arn:aws:s3:::acme-weights2/digits/model.pt"),
        ("s3:PutObject", file),
        ("s3:DeleteObject", file),
        ("s3:ListBucket", "arn:aws:s3:::acme-weights"),
        ("ecr:GetAuthorizationToken", "*"),
        ("ecr:PutImage", f"{ECR}/models/digits"),
    ):
        assert not policies.allowed(documents, action, resource), action


def called() -> set[str]:
    """Return `service:Action` of every call of boto3 in scripts/: methods of the clients that a module makes."""
    actions = set()
    for file in sorted((ROOT / "scripts").rglob("*.py")):
        tree = ast.parse(file.read_text())
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)]
        services = {
            str(call.args[0].value)
            for call in calls
            if isinstance(call.func, ast.Attribute)
            and call.func.attr == "client"
            and call.args
            and isinstance(call.args[0], ast.Constant)
        }
        for service in services:
            operations = boto3.Session(region_name=REGION).client(service).meta.method_to_api_mapping  # type: ignore[call-overload] # any service
            names = {call.func.attr for call in calls if isinstance(call.func, ast.Attribute)} & set(operations)
            actions |= {f"{service}:{operations[name]}" for name in names}
    return actions


@pytest.mark.usefixtures("aws")
def test_the_policies_allow_exactly_the_calls() -> None:
    outputs = deployed(**ALL)
    granted, stars = set(), set()
    for arn in (outputs["DeployRoleArn"], outputs["WeightsRoleArn"]):
        for document in role(arn)[1]:
            for statement in document["Statement"]:
                actions = set(policies.listed(statement["Action"]))
                granted |= actions
                stars |= actions if "*" in policies.listed(statement["Resource"]) else set()
    asked = called()
    assert {"ecr:CreateRepository", "ecr:GetAuthorizationToken", "s3:GetObject", "eks:DescribeCluster"} <= asked
    assert granted == (asked - WITHOUT_PERMISSION) | REGISTRY_ACTIONS | IMPLIED
    assert stars == {"ecr:GetAuthorizationToken"}, "AWS knows no resource for this one alone"
    assert not any("*" in action for action in granted)


@pytest.mark.parametrize(
    ("document", "action", "expected"),
    [
        ({"Effect": "Allow", "Action": "s3:*", "Resource": "*"}, "s3:GetObject", True),
        ({"Effect": "Allow", "Action": "s3:Get", "Resource": "*"}, "s3:GetObject", False),
        ({"Effect": "Allow", "Action": "s3:GetObject", "Resource": "arn:x/[a]"}, "s3:GetObject", False),
        ({"Effect": "Deny", "Action": "s3:*", "Resource": "*"}, "s3:GetObject", False),
        ({"Effect": "Allow", "Action": "s3:*", "Resource": "*", "Condition": {"StringEquals": {"k": "v"}}}, "s3:GetObject", False),
    ],
)
def test_the_evaluator_itself(document: dict[str, Any], action: str, expected: bool) -> None:
    assert policies.allowed([{"Statement": [document]}], action, "arn:x/a") == expected
    always = {"Effect": "Allow", "Action": "*", "Resource": "*"}
    assert policies.allowed([{"Statement": [always]}, {"Statement": document}], action, "arn:x/a") == (document["Effect"] != "Deny")
