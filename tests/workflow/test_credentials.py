"""Short-lived credentials: the jobs' identity, a role, and weights in a bucket that only the fetch job's role may read.

GitHub's token server and AWS are stand-ins: a server of unsigned tokens, and moto for STS and S3, which checks no trust policy.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Literal

import boto3
import pytest
from moto.server import ThreadedMotoServer

from tests.workflow.act import Act
from tests.workflow.conftest import Scene
from tests.workflow.repositories import EXAMPLE
from tests.workflow.services import BEARER, Tokens, token_server

ROLE = "arn:aws:iam::123456789012:role/{}"
REGION: Literal["eu-west-1"] = "eu-west-1"


@pytest.fixture
def tokens() -> Iterator[Tokens]:
    with token_server("repo:acme/models:environment:production") as serving:
        yield serving


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    server = ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    host, port = server.get_host_and_port()
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    yield f"http://{host}:{port}"
    server.stop()


def test_weights_by_a_separate_role(act: Act, scene: Callable[..., Scene], tokens: Tokens, aws: str) -> None:
    s3 = boto3.client(
        "s3", endpoint_url=aws, region_name=REGION, aws_access_key_id="test", aws_secret_access_key="test",
    )  # fmt: skip
    s3.create_bucket(Bucket="weights", CreateBucketConfiguration={"LocationConstraint": REGION})
    s3.upload_file(str(EXAMPLE / "model.pt"), "weights", "flowers/model.pt")
    repository, live = scene()
    repository.edit("model.yaml", "weights: model.pt ", "weights: s3://weights/flowers/model.pt ")
    repository.edit("weights.lock", '"model.pt"', '"s3://weights/flowers/model.pt"')
    (repository.folder / "model.pt").unlink()
    inputs = {"weights-role": ROLE.format("weights"), "aws-role": ROLE.format("deploy"), "aws-region": REGION}
    repository.call(inputs)
    repository.commit("weights in a bucket")
    values = {
        "ACTIONS_ID_TOKEN_REQUEST_URL": f"{tokens.url}/token?version=1",
        "ACTIONS_ID_TOKEN_REQUEST_TOKEN": BEARER,
        "AWS_ENDPOINT_URL": aws,
    }
    run = act(repository.folder, "push", repository.pushed(), env=values)
    assert run.code == 0, run.transcript
    run.ran(plan="success", fetch="success", build="success", deploy="success", report="success")
    assert tokens.audiences == ["sts.amazonaws.com"] * 2, "fetch and deploy, and nobody else, asked who they are"
    assert live.ask()[0] > 0.99
    assert not [one for one in tokens.issued if one in run.raw], "a token was printed"
