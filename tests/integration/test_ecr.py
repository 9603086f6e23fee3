"""ECR's API, against moto's server: a stand-in for the API only, not AWS, and not the registry behind it."""

import json
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
import requests
from moto.server import ThreadedMotoServer

from tests import messages
from tests.errors import fails
from tests.integration.weights_server import Behaviour, Handler, serving
from torchrelay.core.errors import RegistryError
from torchrelay.oci import ecr

HOST = "123456789012.dkr.ecr.eu-west-1.amazonaws.com"


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    yield
    reset_moto(f"http://{host}:{port}")
    server.stop()


@pytest.mark.usefixtures("api")
def test_credentials_are_a_user_and_a_password_that_does_not_print() -> None:
    credentials = ecr.credentials(HOST)
    assert credentials.username == "AWS"
    assert credentials.password.get_secret_value()
    assert credentials.password.get_secret_value() not in repr(credentials)


@pytest.mark.usefixtures("api")
def test_a_repository_is_made_once_with_immutable_tags_and_scanning() -> None:
    assert not ecr.repository_exists(HOST, "team/digits")
    repository = ecr.ensure_repository(HOST, "team/digits")
    assert repository == ecr.EcrRepository(f"{HOST}/team/digits", immutable_tags=True, scan_on_push=True, created=True)
    again = ecr.ensure_repository(HOST, "team/digits", immutable_tags=False, scan_on_push=False)
    assert again == ecr.EcrRepository(f"{HOST}/team/digits", immutable_tags=True, scan_on_push=True, created=False)
    assert ecr.repository_exists(HOST, "team/digits")
    live = boto3.Session().client("ecr", region_name="eu-west-1").describe_repositories()["repositories"]
    assert [(one["repositoryName"], one["imageTagMutability"]) for one in live] == [("team/digits", "IMMUTABLE")]


@pytest.mark.usefixtures("api")
def test_mutable_tags_are_possible() -> None:
    repository = ecr.ensure_repository(HOST, "plain", immutable_tags=False, scan_on_push=False)
    assert (repository.immutable_tags, repository.scan_on_push) == (False, False)


@pytest.mark.usefixtures("api")
def test_without_credentials_the_fix_explains_how_to_get_some(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with fails(RegistryError, words=messages.NO_AWS_CREDENTIALS) as caught:
        ecr.credentials(HOST)
    assert "aws sso login" in caught.value.fix


def reset_moto(endpoint: str) -> None:
    """Forget what the tests made: moto keeps it for the life of this process."""
    requests.post(f"{endpoint}/moto-api/reset", timeout=5).raise_for_status()


def refusing(code: str) -> Behaviour:
    body = json.dumps({"__type": code, "message": "no"}).encode()

    def behave(handler: Handler) -> None:
        handler.send_response(400)
        handler.send_header("Content-Type", "application/x-amz-json-1.1")
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    return behave


@pytest.mark.usefixtures("api")
@pytest.mark.parametrize(
    ("code", "message", "fix"),
    [
        (
            "AccessDeniedException",
            "not allowed to ecr:CreateRepository",
            '{Effect: Allow, Action: "ecr:CreateRepository", Resource: "arn:aws:ecr:eu-west-1:123456789012:repository/digits"}',
        ),
        ("ExpiredTokenException", "expired or unknown", "aws sso login"),
        ("LimitExceededException", "limit of repositories", "delete some"),
        ("InvalidParameterException", "ECR refused ecr:CreateRepository: InvalidParameterException", "check the role"),
    ],
)
def test_ecrs_refusals_are_explained(monkeypatch: pytest.MonkeyPatch, code: str, message: str, fix: str) -> None:
    with serving(b"") as stand_in:
        stand_in.next = [refusing(code)] * 9
        monkeypatch.setenv("AWS_ENDPOINT_URL", stand_in.url)
        with pytest.raises(RegistryError, match=message) as caught:
            ecr.ensure_repository(HOST, "digits")
    assert fix in caught.value.fix
    assert (len(stand_in.asked) > 1) == (code == "LimitExceededException")  # botocore takes that one for throttling


@pytest.mark.usefixtures("api")
def test_nobody_at_the_endpoint_ends_in_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with fails(RegistryError, words=messages.UNREACHABLE):
        ecr.credentials(HOST)
