"""Doctor with a real Docker daemon, registry, git and web server; moto replaces AWS and a stand-in replaces GitHub."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import requests

from tests.integration.accounts import SIGNATURE, answering, moto, token_service
from tests.integration.conftest import serve_registry
from tests.integration.test_login import HTPASSWD
from tests.integration.weights_server import WeightsServer, serving, status
from torchrelay.cli import main
from torchrelay.core.paths import ROOT

ROLE = "arn:aws:iam::123456789012:role/deploy"
ECR = "123456789012.dkr.ecr.eu-west-1.amazonaws.com"


@pytest.fixture
def model_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    shutil.copytree(ROOT / "examples" / "digits", folder, ignore=shutil.ignore_patterns(".torchrelay"))
    git(folder, "init", "--quiet", "--initial-branch=main")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "first")
    return folder


def git(folder: Path, *arguments: str) -> None:
    command = [
        "git",
        "-C",
        str(folder),
        "-c",
        "user.name=t",
        "-c",
        "user.email=t@example.com",
        "-c",
        "commit.gpgsign=false",
        *arguments,
    ]
    subprocess.run(command, check=True, capture_output=True)


def doctor(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, dict[str, Any]], str]:
    """Run the verb; return its exit code, the checks by name, and everything it printed."""
    code = main.run(["doctor", *arguments, "--json"])
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 1, "one JSON object"
    checks = json.loads(out)["checks"]
    assert all(set(check) == {"name", "ok", "detail", "fix"} for check in checks)
    assert all(check["fix"] for check in checks if not check["ok"])
    return code, {check["name"]: check for check in checks}, out + err


def test_a_complete_machine_passes(model_dir: Path, registry_host: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, checks, _ = doctor(capsys, str(model_dir), "--target", "docker", "--repository", f"{registry_host}/models/")
    assert [name for name, check in checks.items() if not check["ok"]] == []
    assert code == 0
    assert {"python", "git", "docker", "disk", "disk of docker", "weights", "registry", "workflow"} <= set(checks)
    assert checks["git"]["detail"] == "1 commits of history"
    assert "API" in checks["docker"]["detail"]
    assert checks["registry"]["detail"] == f"{registry_host}/models/digits accepts uploads"
    held = requests.get(f"http://{registry_host}/v2/_catalog", timeout=5).json()["repositories"]
    assert "models/digits" not in held, "nothing is left there"


def test_the_local_target_needs_no_docker(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:9")
    code, checks, _ = doctor(capsys, str(model_dir), "--target", "local")
    assert code == 0
    assert "docker" not in checks


def test_a_missing_daemon_is_reported(model_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:9")
    code, checks, _ = doctor(capsys, str(model_dir), "--target", "docker")
    assert code == 36
    assert [name for name, check in checks.items() if not check["ok"]] == ["docker"]
    assert "DOCKER_HOST" in checks["docker"]["fix"]


def test_a_shallow_clone(model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    git(model_dir, "commit", "--quiet", "--allow-empty", "-m", "second")
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", "--depth=1", f"file://{model_dir}", str(clone)], check=True, capture_output=True)
    code, checks, _ = doctor(capsys, str(clone), "--target", "local")
    assert code == 36
    assert "fetch-depth: 0" in checks["git"]["fix"]


def test_a_registry_that_requires_a_login_is_reported(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "htpasswd").write_text(HTPASSWD)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "none"))
    for host in serve_registry(tmp_path, f"auth: {{htpasswd: {{realm: tests, path: {tmp_path}/htpasswd}}}}\n"):
        code, checks, _ = doctor(capsys, str(model_dir), "--target", "docker", "--repository", f"{host}/x")
    assert code == 36
    assert "401" in checks["registry"]["detail"]
    assert "docker login" in checks["registry"]["fix"]


def test_the_test_upload_is_cancelled(model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for host in serve_registry(tmp_path):
        code, _, _ = doctor(capsys, str(model_dir), "--target", "docker", "--repository", f"{host}/x")
        assert code == 0
        assert list((tmp_path / "data").rglob("_uploads")) != [], "it was begun"
        # of a cancelled one distribution 2.8 leaves an empty hash state, but neither its data nor that it began
        assert [path.name for path in (tmp_path / "data").rglob("*") if path.name in ("data", "startedat")] == []


@pytest.mark.parametrize("repository", ["127.0.0.1:9/x", "UPPER/case"])
def test_an_unreachable_registry_is_reported(model_dir: Path, capsys: pytest.CaptureFixture[str], repository: str) -> None:
    code, checks, _ = doctor(capsys, str(model_dir), "--target", "docker", "--repository", repository)
    assert code == 36
    assert [name for name, check in checks.items() if not check["ok"]] == ["registry"]


def from_web(model_dir: Path, server: WeightsServer) -> None:
    (model_dir / "weights.lock").unlink(missing_ok=True)
    text = (model_dir / "model.yaml").read_text()
    (model_dir / "model.yaml").write_text(text.replace("weights: model.pt", f"weights: {server.url}/model.pt"))
    assert server.url in (model_dir / "model.yaml").read_text()


def test_weights_are_opened_and_not_read(model_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serving(b"x" * 5_000_000) as server:
        from_web(model_dir, server)
        code, checks, _ = doctor(capsys, str(model_dir), "--target", "local")
        assert len(server.asked) == 1
    assert code == 0
    assert checks["weights"]["detail"].endswith("5000000 bytes")
    assert not (model_dir / "weights.lock").exists()


@pytest.mark.parametrize(("answer", "detail"), [(404, "not found (404)"), (403, "refused"), (500, "answers 500")])
def test_unavailable_weights_are_reported(model_dir: Path, capsys: pytest.CaptureFixture[str], answer: int, detail: str) -> None:
    with serving(b"") as server:
        from_web(model_dir, server)
        server.next = [status(answer)] * 9
        code, checks, _ = doctor(capsys, str(model_dir), "--target", "local")
    assert code == 36
    assert detail in checks["weights"]["detail"]


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    with moto(monkeypatch, tmp_path) as address:
        yield address


def test_aws_identity_and_missing_repository(aws: str, model_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert aws
    code, checks, _ = doctor(capsys, str(model_dir), "--target", "docker", "--repository", f"{ECR}/models/digits")
    assert code == 36
    assert checks["aws"] == {"name": "aws", "ok": True, "detail": "arn:aws:sts::123456789012:user/moto", "fix": ""}
    assert "does not exist in ECR" in checks["registry"]["detail"]
    assert "create-repository" in checks["registry"]["fix"]


@pytest.mark.usefixtures("aws")
def test_a_missing_aws_permission_is_reported_with_its_policy_line(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(b"") as stand_in:
        stand_in.next = [answering(400, {"__type": "AccessDeniedException", "message": "no"})] * 9
        monkeypatch.setenv("AWS_ENDPOINT_URL_ECR", stand_in.url)
        code, checks, _ = doctor(capsys, str(model_dir), "--target", "docker", "--repository", f"{ECR}/models/digits")
    assert code == 36
    assert 'Action: "ecr:DescribeRepositories"' in checks["registry"]["fix"]


@pytest.mark.usefixtures("aws")
def test_weights_in_s3_are_checked_with_the_real_call(model_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    client = boto3.Session(region_name="us-east-1").client("s3")
    client.create_bucket(Bucket="acme-weights")
    client.put_object(Bucket="acme-weights", Key="digits/model.pt", Body=b"x" * 1000)
    text = (model_dir / "model.yaml").read_text()
    (model_dir / "weights.lock").unlink(missing_ok=True)
    (model_dir / "model.yaml").write_text(text.replace("weights: model.pt", "weights: s3://acme-weights/digits/model.pt"))
    code, checks, _ = doctor(capsys, str(model_dir), "--target", "local")
    assert (code, checks["weights"]["detail"]) == (0, "s3://acme-weights/digits/model.pt: 1000 bytes")
    client.delete_object(Bucket="acme-weights", Key="digits/model.pt")
    code, checks, _ = doctor(capsys, str(model_dir), "--target", "local")
    assert (code, checks["weights"]["ok"]) == (36, False)


def test_missing_credentials_are_reported_for_registry_and_aws(
    aws: str, model_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert aws
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    code, checks, _ = doctor(capsys, str(model_dir), "--target", "docker", "--repository", f"{ECR}/models/digits")
    assert code == 36
    assert [name for name, check in checks.items() if not check["ok"]] == ["registry", "aws"]


def test_the_identity_token_is_requested_and_not_printed(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with token_service(monkeypatch):
        code, checks, printed = doctor(capsys, str(model_dir), "--target", "local", "--aws-role", ROLE)
    assert code == 0
    assert checks["identity"]["detail"] == "GitHub identifies the job as repo:acme@7/serving@8:environment:production"
    assert SIGNATURE not in printed
    assert "the-bearer" not in printed


def test_a_job_without_the_permission_gets_the_yaml_to_add(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    for name in ("ACTIONS_ID_TOKEN_REQUEST_URL", "ACTIONS_ID_TOKEN_REQUEST_TOKEN", "ACT"):
        monkeypatch.delenv(name, raising=False)
    code, checks, _ = doctor(capsys, str(model_dir), "--target", "local", "--aws-role", ROLE)
    assert code == 36
    assert "id-token: write" in checks["identity"]["fix"]
