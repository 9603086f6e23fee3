"""Checks a kubeconfig from a secret: one YAML text that needs no other file and starts no program but a cloud's token helper.

A kubeconfig can name any program to run for its token (`exec`), which gets the job's AWS credentials in its environment. So
whoever can write the secret could run anything in the one job that has credentials. A few known helpers, without a path, with the
arguments that print a token and with harmless variables, are all that real clusters need.
"""

import base64
import binascii
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from torchrelay.core.errors import LoginFailed, ModelInvalid
from torchrelay.core.text import printable
from torchrelay.core.urls import is_private
from torchrelay.model import yaml_document

NAME = "kubeconfig"
_VALUE = r"[\w:/+=,.@][\w:/+=,.@-]*"  # never a flag itself
_AWS = rf"--(?:cluster-name|cluster-id|role-arn|region|profile|output) {_VALUE}"
_KUBELOGIN = (
    r"--(?:login|environment|server-id|client-id|tenant-id|oidc-issuer-url|oidc-client-id|oidc-client-secret|oidc-extra-scope|grant-type)"
    rf"[ =]{_VALUE}"
)
"""The flags of both programs of this name that choose an identity; others open files or start programs (`--browser-command`)."""
EXEC_ARGUMENTS = {
    "aws": re.compile(rf"(?:{_AWS} )*eks get-token(?: {_AWS})*"),
    "aws-iam-authenticator": re.compile(rf"token(?: (?:-i|-r|--cluster-id|--role) {_VALUE})*"),
    "gke-gcloud-auth-plugin": re.compile(r""),
    "kubelogin": re.compile(rf"get-token(?: {_KUBELOGIN})*"),
}
EXEC_ENVIRONMENT = {"AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_STS_REGIONAL_ENDPOINTS", "USE_GKE_GCLOUD_AUTH_PLUGIN"}
FILES = {
    "certificate-authority": "certificate-authority-data",
    "client-certificate": "client-certificate-data",
    "client-key": "client-key-data",
    "tokenFile": "token",
}
SECRETS = ("token", "password", "client-key-data")
FLATTEN = "make it with `kubectl config view --raw --flatten --minify`"


def text_of(data: str) -> str:
    """Return the YAML of a secret, which contains it as plain text or in base64."""
    stripped = "".join(data.split())
    if stripped and re.fullmatch(r"[A-Za-z0-9+/]+={0,2}", stripped):
        try:
            return base64.b64decode(stripped, validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            return data
    return data


def secrets_of(config: dict[str, Any]) -> Iterator[str]:
    """Yield the values that must not appear in a log."""
    for user in _entries(config, "users"):
        for key in SECRETS:
            value = _body(user, "user").get(key)
            if isinstance(value, str) and value:
                yield value


def checked(text: str) -> dict[str, Any]:
    """Parse a kubeconfig and check that it is complete and harmless.

    Raises LoginFailed with the line; the message repeats no value of the text.
    """
    try:
        document = yaml_document.parse(text.encode(), NAME)
    except ModelInvalid as error:
        # The reason can quote the text, which is secret, so only its line is shown.
        line = error.problems[0].line or 1
        raise LoginFailed(f"{NAME}:{line}: is not YAML with `key: value` lines", FLATTEN) from None
    for duplicate in document.problems:
        raise LoginFailed(f"{NAME}:{duplicate.line}: a key is written twice", FLATTEN)
    config = document.value
    if config.get("kind") != "Config" or not _entries(config, "clusters") or not _entries(config, "users"):
        raise LoginFailed(f"{NAME}: is not a kubeconfig: expected `kind: Config` with clusters and users", FLATTEN)
    for problem, path, fix in [*_cluster_problems(config), *_user_problems(config), *_context_problems(config)]:
        raise LoginFailed(f"{NAME}:{document.line(path)}: {problem}", fix)
    return config


Problems = Iterator[tuple[str, tuple[str | int, ...], str]]


def _entries(config: dict[str, Any], key: str) -> list[dict[str, Any]]:
    entries = config.get(key)
    return [one for one in entries if isinstance(one, dict)] if isinstance(entries, list) else []


def _body(entry: dict[str, Any], key: str) -> dict[str, Any]:
    body = entry.get(key)
    return body if isinstance(body, dict) else {}


def _files(body: dict[str, Any], path: tuple[str | int, ...]) -> Problems:
    for key, inline in FILES.items():
        if key in body:
            yield (
                f"`{key}` names a file, which is not part of the secret",
                (*path, key),
                f"write its content as `{inline}`: {FLATTEN}",
            )


def _cluster_problems(config: dict[str, Any]) -> Problems:
    for index, entry in enumerate(_entries(config, "clusters")):
        body, path = _body(entry, "cluster"), ("clusters", index, "cluster")
        yield from _files(body, path)
        if not _is_safe_server(body.get("server")):
            yield (
                "`server` is not an https:// address",
                (*path, "server"),
                "use https: the credentials would be sent unencrypted",
            )
        if body.get("insecure-skip-tls-verify"):
            yield (
                "`insecure-skip-tls-verify` gives the credentials to anyone on the network path",
                (*path, "insecure-skip-tls-verify"),
                "write the cluster's authority as `certificate-authority-data`",
            )


def _is_safe_server(server: Any) -> bool:
    """Return whether an address is https, or http on this machine, and names a host."""
    text = server if isinstance(server, str) else ""
    return is_private(text) and bool(urlsplit(text).hostname)


def _user_problems(config: dict[str, Any]) -> Problems:
    for index, entry in enumerate(_entries(config, "users")):
        body, path = _body(entry, "user"), ("users", index, "user")
        yield from _files(body, path)
        if "auth-provider" in body:
            yield "`auth-provider` was removed from Kubernetes and can run programs", (*path, "auth-provider"), FLATTEN
        if "exec" in body:
            yield from _exec_problems(_body(body, "exec"), (*path, "exec"))


def _exec_problems(body: dict[str, Any], path: tuple[str | int, ...]) -> Problems:
    command, arguments, variables = body.get("command"), body.get("args") or [], body.get("env") or []
    known = EXEC_ARGUMENTS.get(command) if isinstance(command, str) else None
    if known is None:
        yield (
            f"would run {printable(str(command), 60)}",
            (*path, "command"),
            f"use one of {', '.join(EXEC_ARGUMENTS)} without a path, or a service account's token",
        )
    elif not isinstance(arguments, list) or not known.fullmatch(" ".join(str(one) for one in arguments)):
        yield (
            f"runs {command} for something other than a token",
            (*path, "args"),
            "write the arguments of the cloud's tool",
        )
    names = [one.get("name") if isinstance(one, dict) else None for one in variables] if isinstance(variables, list) else [None]
    for name in names:
        if not isinstance(name, str) or name not in EXEC_ENVIRONMENT:
            yield (
                f"sets {printable(str(name), 60)} for {command}",
                (*path, "env"),
                f"only {', '.join(sorted(EXEC_ENVIRONMENT))} may be set",
            )


def _context_problems(config: dict[str, Any]) -> Problems:
    current = config.get("current-context")
    contexts = [entry.get("name") for entry in _entries(config, "contexts")]
    if not contexts:
        yield "has no contexts", (), FLATTEN
    elif current and current not in contexts:
        yield "`current-context` names none of its contexts", ("current-context",), "name one of them"
