"""A kubeconfig that came as a secret: one YAML text that needs no file beside it and starts no program but a cloud's token helper.

A kubeconfig may name any program to run for its token (`exec`), and it gets the job's AWS credentials in its environment. Whoever
can write the secret could so run anything in the one job that holds credentials; a few known helpers, without a path, in their
token-giving form and with harmless variables, are all that real clusters need.
"""

import base64
import binascii
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from torchrelay.core.errors import LoginFailed, ModelInvalid
from torchrelay.core.text import printable
from torchrelay.model import yaml_document

NAME = "kubeconfig"
_AWS = r"--(?:cluster-name|cluster-id|role-arn|region|profile|output) [\w:/+=,.@-]+"
EXEC_ARGUMENTS = {
    "aws": re.compile(rf"(?:{_AWS} )*eks get-token(?: {_AWS})*"),
    "aws-iam-authenticator": re.compile(r"token(?: (?:-i|-r|--cluster-id|--role) [\w:/+=,.@-]+)*"),
    "gke-gcloud-auth-plugin": re.compile(r""),
    "kubelogin": re.compile(r"get-token(?: --[a-z-]+ [\w:/+=,.@-]+)*"),
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
    """Return the YAML of a secret that holds it as it is or, as many do, in base64."""
    stripped = "".join(data.split())
    if stripped and re.fullmatch(r"[A-Za-z0-9+/]+={0,2}", stripped):
        try:
            return base64.b64decode(stripped, validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            return data
    return data


def secrets_of(config: dict[str, Any]) -> Iterator[str]:
    """Yield what must not appear in a log."""
    for user in _entries(config, "users"):
        for key in SECRETS:
            value = _body(user, "user").get(key)
            if isinstance(value, str) and value:
                yield value


def checked(text: str) -> dict[str, Any]:
    """Return the kubeconfig of a text, if it can be used and does nothing else.

    Raises LoginFailed with the line; no value of the text is repeated in the message.
    """
    try:
        document = yaml_document.parse(text.encode(), NAME)
    except ModelInvalid as error:
        # The reason may quote the text, which is secret: its line is enough.
        line = error.problems[0].line or 1
        raise LoginFailed(f"{NAME}:{line}: is not YAML of `key: value` lines", FLATTEN) from None
    for duplicate in document.problems:
        raise LoginFailed(f"{NAME}:{duplicate.line}: a key is written twice", FLATTEN)
    config = document.value
    if config.get("kind") != "Config" or not _entries(config, "clusters") or not _entries(config, "users"):
        raise LoginFailed(f"{NAME}: has not `kind: Config` with clusters and users", FLATTEN)
    for problem, path, fix in [*_cluster_problems(config), *_user_problems(config), *_context_problems(config)]:
        raise LoginFailed(f"{NAME}:{document.line(path)}: {problem}", fix)
    return config


Found = Iterator[tuple[str, tuple[str | int, ...], str]]


def _entries(config: dict[str, Any], key: str) -> list[dict[str, Any]]:
    entries = config.get(key)
    return [one for one in entries if isinstance(one, dict)] if isinstance(entries, list) else []


def _body(entry: dict[str, Any], key: str) -> dict[str, Any]:
    body = entry.get(key)
    return body if isinstance(body, dict) else {}


def _files(body: dict[str, Any], path: tuple[str | int, ...]) -> Found:
    for key, inline in FILES.items():
        if key in body:
            yield f"`{key}` names a file, which does not come along", (*path, key), f"put it in as `{inline}`: {FLATTEN}"


def _cluster_problems(config: dict[str, Any]) -> Found:
    for index, entry in enumerate(_entries(config, "clusters")):
        body, path = _body(entry, "cluster"), ("clusters", index, "cluster")
        yield from _files(body, path)
        server = body.get("server")
        parts = urlsplit(server) if isinstance(server, str) else urlsplit("")
        loopback = parts.hostname in ("127.0.0.1", "::1", "localhost")
        if not parts.hostname or (parts.scheme != "https" and not loopback):
            yield "`server` is no https:// address", (*path, "server"), "the cluster's credentials would go out in the clear"
        if body.get("insecure-skip-tls-verify"):
            yield (
                "`insecure-skip-tls-verify` gives the credentials to anyone in between",
                (*path, "insecure-skip-tls-verify"),
                "put the cluster's authority in as `certificate-authority-data`",
            )


def _user_problems(config: dict[str, Any]) -> Found:
    for index, entry in enumerate(_entries(config, "users")):
        body, path = _body(entry, "user"), ("users", index, "user")
        yield from _files(body, path)
        if "auth-provider" in body:
            yield "`auth-provider` is gone from Kubernetes and may run programs", (*path, "auth-provider"), FLATTEN
        if "exec" in body:
            yield from _exec_problems(_body(body, "exec"), (*path, "exec"))


def _exec_problems(body: dict[str, Any], path: tuple[str | int, ...]) -> Found:
    command, arguments, variables = body.get("command"), body.get("args") or [], body.get("env") or []
    known = EXEC_ARGUMENTS.get(command) if isinstance(command, str) else None
    if known is None:
        yield (
            f"would run {printable(str(command), 60)}",
            (*path, "command"),
            f"only {', '.join(EXEC_ARGUMENTS)} are run, found on the PATH; or use a service account's token",
        )
    elif not isinstance(arguments, list) or not known.fullmatch(" ".join(str(one) for one in arguments)):
        yield f"runs {command} for something else than a token", (*path, "args"), "write its arguments as the cloud's tool does"
    names = [one.get("name") if isinstance(one, dict) else None for one in variables] if isinstance(variables, list) else [None]
    for name in names:
        if name not in EXEC_ENVIRONMENT:
            yield (
                f"sets {printable(str(name), 60)} for {command}",
                (*path, "env"),
                f"only {', '.join(sorted(EXEC_ENVIRONMENT))} may be set",
            )


def _context_problems(config: dict[str, Any]) -> Found:
    current = config.get("current-context")
    contexts = {entry.get("name") for entry in _entries(config, "contexts")}
    if not contexts:
        yield "has no contexts", (), FLATTEN
    elif current and current not in contexts:
        yield "`current-context` names none of its contexts", ("current-context",), "name one of them"
