"""The whole login: a token from the stand-in for GitHub, a role from moto's STS, a real registry with a password, a kubeconfig."""

import json
import logging
import os
import re
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
import yaml

from tests import messages
from tests.errors import fails
from tests.integration.accounts import CLAIMS, SIGNATURE, answering, exported, moto, sts_error, token_service
from tests.integration.conftest import serve_registry
from tests.integration.weights_server import Handler, serving, status
from torchrelay.cli import main
from torchrelay.core.errors import LoginFailed
from torchrelay.credentials import oidc
from torchrelay.oci.docker_config import docker_credentials
from torchrelay.stages import login

ROLE = "arn:aws:iam::123456789012:role/deploy"
USER, PASSWORD = "robot", "right horse"
HTPASSWD = f"{USER}:$2b$05$abcdefghijklmnopqrstuuB05BVy0V7KomGh8K56xgiHLq3Wkqh46\n"
SECRET_FLAGS = {"--registry-password": "TORCHRELAY_REGISTRY_PASSWORD", "--kubeconfig-data": "TORCHRELAY_KUBECONFIG_DATA"}
KUBECONFIG = """
apiVersion: v1
kind: Config
current-context: c
clusters: [{name: c, cluster: {server: "https://k8s.example", certificate-authority-data: QQ==}}]
contexts: [{name: c, context: {cluster: c, user: u}}]
users: [{name: u, user: {token: a-token-of-a-cluster}}]
"""


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Make this process a step of a job; return the folder of its files."""
    for name in [name for name in os.environ if name.startswith(("TORCHRELAY_", "ACTIONS_", "AWS_", "DOCKER_CONFIG"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("RUNNER_TEMP", str(tmp_path / "temp"))
    monkeypatch.setenv("GITHUB_ENV", str(tmp_path / "env"))
    monkeypatch.setenv("GITHUB_OUTPUT", str(tmp_path / "output"))
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_REPOSITORY", "acme/serving")
    monkeypatch.setenv("GITHUB_RUN_ID", "42")
    monkeypatch.setenv("GITHUB_RUN_ATTEMPT", "1")
    (tmp_path / "temp").mkdir()
    return tmp_path


@pytest.fixture
def aws(job: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with moto(monkeypatch, job) as address:
        monkeypatch.delenv("AWS_DEFAULT_REGION")
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        yield address


@pytest.fixture(scope="module")
def locked_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("locked")
    (folder / "htpasswd").write_text(HTPASSWD)
    yield from serve_registry(folder, f"auth: {{htpasswd: {{realm: tests, path: {folder}/htpasswd}}}}\n")


def test_a_role_is_assumed_and_its_credentials_are_masked(
    aws: str, job: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with token_service(monkeypatch) as service:
        code = main.run(["login", "--aws-role", ROLE, "--aws-region", "eu-west-1", "--json"])
    out, err = capsys.readouterr()
    assert code == 0
    assert service.asked[0]["path"] == "/token?v=1&audience=sts.amazonaws.com"
    assert service.asked[0]["authorization"] == "Bearer the-bearer"
    assert json.loads(out)["aws"] == "arn:aws:sts::123456789012:assumed-role/deploy/torchrelay-serving-42-1"
    later = exported(job / "env")
    assert set(later) == {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_DEFAULT_REGION"}
    assert later["AWS_REGION"] == later["AWS_DEFAULT_REGION"] == "eu-west-1"
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        assert f"::add-mask::{later[name]}" in err
        assert later[name] not in out
        assert later[name] not in err.replace(f"::add-mask::{later[name]}", "")
    assert err.count(SIGNATURE) == 1  # in its own mask
    monkeypatch.setenv("AWS_ENDPOINT_URL", aws)
    session = boto3.Session(later["AWS_ACCESS_KEY_ID"], later["AWS_SECRET_ACCESS_KEY"], later["AWS_SESSION_TOKEN"], "eu-west-1")
    assert session.client("sts").get_caller_identity()["Arn"] == json.loads(out)["aws"]


def test_a_login_without_any_account_is_reported(job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["login"]) == 0
    assert "nothing to log in to" in capsys.readouterr().out
    assert exported(job / "env") == {}


def dropped(handler: Handler) -> None:
    """Close the connection without a reply."""
    handler.connection.shutdown(socket.SHUT_RDWR)
    handler.close_connection = True


@pytest.mark.parametrize("trouble", [[status(503)], [status(429)] * 2, [dropped], [status(500)] * 4])
def test_trouble_at_githubs_service_is_waited_out(monkeypatch: pytest.MonkeyPatch, trouble: list[object]) -> None:
    with token_service(monkeypatch) as service:
        service.next[:0] = trouble  # type: ignore[assignment] # a stand-in
        who = oidc.identity("sts.amazonaws.com", sleep=lambda _: None)
    assert who.claims == CLAIMS
    assert len(service.asked) == len(trouble) + 1


@pytest.mark.parametrize(
    ("answer", "message", "asked"),
    [
        (status(503), "gave no identity token in 5 attempts: 503", 5),
        (status(403), "refuses to give the job an identity token: 403", 1),
        (status(302, Location="http://127.0.0.1:9/stolen"), "refuses to give the job an identity token: 302", 1),
        (answering(200, {"value": None}), "answered without a token", 1),
        (answering(200, ["x"]), "answered without a token", 1),
        (answering(200, "<html>"), "answered without a token", 1),
    ],
)
def test_a_service_that_gives_none_ends_in_one_error(
    monkeypatch: pytest.MonkeyPatch, answer: object, message: str, asked: int
) -> None:
    with token_service(monkeypatch) as service:
        service.next = [answer] * 9  # type: ignore[list-item] # a stand-in
        with pytest.raises(LoginFailed, match=message) as caught:
            oidc.identity("sts.amazonaws.com", sleep=lambda _: None)
    assert len(service.asked) == asked
    assert "the-bearer" not in str(caught.value)


@pytest.mark.usefixtures("aws")
def test_a_refusal_of_sts_shows_the_claims_and_the_policy(
    job: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with token_service(monkeypatch), serving(b"") as sts:
        sts.next = [sts_error("AccessDenied", "Not authorized to perform sts:AssumeRoleWithWebIdentity")]
        monkeypatch.setenv("AWS_ENDPOINT_URL", sts.url)
        assert main.run(["login", "--aws-role", ROLE, "--aws-region", "eu-west-1"]) == 35
    err = capsys.readouterr().err
    assert "sub: repo:acme@7/serving@8:environment:production" in err
    assert '"repo:acme/serving:environment:production"' in err
    assert err.count(SIGNATURE) == 1
    assert exported(job / "env") == {}


def test_trouble_at_sts_is_retried(aws: str, monkeypatch: pytest.MonkeyPatch, job: Path) -> None:
    with token_service(monkeypatch), serving(b"") as sts:
        sts.next = [sts_error("Throttling", status=400), sts_error("InternalFailure", status=500), sts_error("AccessDenied")]
        monkeypatch.setenv("AWS_ENDPOINT_URL", sts.url)
        with fails(LoginFailed, words=messages.ROLE_REFUSED):
            login.run(login.LoginRequest(aws_role=ROLE, aws_region="eu-west-1"), login.this_job())
    assert len(sts.asked) == 3
    assert aws
    assert exported(job / "env") == {}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--aws-role", "deploy", "--aws-region", "eu-west-1"], "is not the ARN of a role"),
        (["--aws-role", ROLE], "no AWS region is set"),
        (["--aws-role", ROLE, "--aws-region", "Europe"], "is not an AWS region"),
        (["--aws-role", ROLE, "--aws-region", "eu-west-1"], "lacks `id-token: write`"),
        (["--registry-username", "u", "--registry-password", "p"], "but no registry"),
        (["--registry", "ghcr.io/x", "--registry-username", "u"], "registry-password is empty"),
        (["--registry", "https://ghcr.io", "--registry-username", "u", "--registry-password", "p"], "is not a registry"),
        (
            [
                "--registry",
                "123456789012.dkr.ecr.eu-west-1.amazonaws.com/x",
                "--registry-username",
                "u",
                "--registry-password",
                "p",
            ],
            "ECR does not use",
        ),
        (["--kubeconfig-data", "nonsense"], "kubeconfig:1: is not YAML"),
    ],
)
def test_bad_input_is_one_clear_error(
    job: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    for flag in set(SECRET_FLAGS) & set(arguments):
        at = arguments.index(flag)
        monkeypatch.setenv(SECRET_FLAGS[flag], arguments[at + 1])
        arguments = arguments[:at] + arguments[at + 2 :]
    assert main.run(["login", *arguments]) == 35
    assert message in capsys.readouterr().err
    assert exported(job / "env") == {}
    assert [path.name for path in (job / "temp").iterdir()] == ["torchrelay-error.json"]


@pytest.mark.parametrize("flag", ["--registry-password", "--kubeconfig-data"])
@pytest.mark.parametrize("form", ["apart", "joined"])
def test_a_typed_secret_is_refused(job: Path, capsys: pytest.CaptureFixture[str], flag: str, form: str) -> None:
    typed = [flag, "right horse"] if form == "apart" else [f"{flag}=right horse"]
    assert main.run(["login", "--registry", "ghcr.io", "--registry-username", "u", *typed]) == 2
    err = capsys.readouterr().err
    assert SECRET_FLAGS[flag] in " ".join(err.split())
    assert "right horse" not in err
    assert exported(job / "env") == {}


@pytest.mark.usefixtures("aws")
def test_a_long_lived_key_lying_around_is_only_warned_about(
    job: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    logger = logging.getLogger("torchrelay")
    monkeypatch.setattr(logger, "propagate", True)
    with token_service(monkeypatch):
        login.run(login.LoginRequest(aws_role=ROLE, aws_region="eu-west-1"), login.this_job())
    assert "long-lived AWS key" in caplog.text
    assert exported(job / "env")["AWS_ACCESS_KEY_ID"] != "AKIAIOSFODNN7EXAMPLE"


def test_a_registrys_password_is_tried_and_kept_for_docker(
    locked_registry: str, job: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (job / "home" / ".docker").mkdir(parents=True)
    (job / "home" / ".docker" / "config.json").write_text(
        json.dumps({"auths": {"other.example": {"auth": "eDp5"}}, "credsStore": "none"})
    )
    monkeypatch.setenv("TORCHRELAY_REGISTRY_PASSWORD", PASSWORD)
    assert main.run(["login", "--registry", f"{locked_registry}/models/digits", "--registry-username", USER, "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["registry"] == locked_registry
    assert PASSWORD not in out
    assert f"::add-mask::{PASSWORD}" in err
    folder = Path(exported(job / "env")["DOCKER_CONFIG"])
    assert folder.parent.parent == job / "temp"
    assert stat.S_IMODE((folder / "config.json").stat().st_mode) == 0o600
    monkeypatch.setenv("DOCKER_CONFIG", str(folder))
    assert docker_credentials(locked_registry) == (USER, PASSWORD)
    assert docker_credentials("other.example") == ("x", "y")
    assert "credsStore" not in json.loads((folder / "config.json").read_text())


def test_a_wrong_password_is_refused_before_any_write(
    locked_registry: str, job: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TORCHRELAY_REGISTRY_PASSWORD", "wrong horse")
    arguments = ["login", "--registry", locked_registry, "--registry-username", USER]
    assert main.run(arguments) == 35
    err = capsys.readouterr().err
    assert "401" in err
    assert "registry-password" in err
    assert "wrong horse" not in re.sub(r"::add-mask::.*", "", err)
    assert exported(job / "env") == {}
    assert [path.name for path in (job / "temp").iterdir()] == ["torchrelay-error.json"]


def test_a_kubeconfig_is_replaced_and_readable_only_by_this_user(
    job: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TORCHRELAY_KUBECONFIG_DATA", KUBECONFIG)
    assert main.run(["login"]) == 0
    file = Path(exported(job / "env")["KUBECONFIG"])
    assert file.is_relative_to(job / "temp")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert yaml.safe_load(file.read_text()) == yaml.safe_load(KUBECONFIG)
    out, err = capsys.readouterr()
    assert "::add-mask::a-token-of-a-cluster" in err
    assert "a-token-of-a-cluster" not in out
    from kubernetes import config

    client = config.new_client_from_config(str(file))
    assert client.configuration.host == "https://k8s.example"  # type: ignore[attr-defined] # the stubs leave it out


def test_outside_of_a_job_nothing_is_written(
    job: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("RUNNER_TEMP")
    monkeypatch.setenv("TORCHRELAY_KUBECONFIG_DATA", KUBECONFIG)
    assert main.run(["login"]) == 35
    assert "RUNNER_TEMP is not set" in capsys.readouterr().err
    assert not (job / "home").exists()


@pytest.mark.parametrize(
    ("repository", "expected"),
    [
        ("acme/serving", "torchrelay-serving-42-1"),
        ("acme/" + "x" * 99, f"torchrelay-{'x' * 30}-42-1"),
        ("acme/a$(id)\n::b", "torchrelay-a--id----b-42-1"),
        ("", "torchrelay-42-1"),
    ],
)
def test_the_session_is_named_for_the_run(repository: str, expected: str) -> None:
    name = login.session_name({"GITHUB_REPOSITORY": repository, "GITHUB_RUN_ID": "42", "GITHUB_RUN_ATTEMPT": "1"})
    assert name == expected
    assert re.fullmatch(r"[\w+=,.@-]{2,64}", name)


@pytest.mark.usefixtures("aws")
def test_ecr_is_logged_in_to_by_the_aws_credentials_of_the_job(
    job: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    host = "123456789012.dkr.ecr.eu-west-1.amazonaws.com"
    assert main.run(["login", "--registry", f"{host}/models/digits"]) == LoginFailed.exit_code
    assert "no AWS credentials" in capsys.readouterr().err
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    assert main.run(["login", "--registry", f"{host}/models/digits"]) == 0
    folder = Path(exported(job / "env")["DOCKER_CONFIG"])
    assert folder.name == ".docker", "what reads $HOME/.docker finds it too"
    monkeypatch.setenv("DOCKER_CONFIG", str(folder))
    user, password = docker_credentials(host) or ("", "")
    assert user == "AWS"
    assert password not in (folder / "config.json").read_text()
    assert f"::add-mask::{password}" in "".join(capsys.readouterr())


@pytest.mark.usefixtures("aws")
def test_with_a_role_ecr_needs_no_login(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = "123456789012.dkr.ecr.eu-west-1.amazonaws.com"
    with token_service(monkeypatch):
        assert main.run(["login", "--aws-role", ROLE, "--aws-region", "eu-west-1", "--registry", f"{host}/x"]) == 0
    assert "DOCKER_CONFIG" not in exported(job / "env")
