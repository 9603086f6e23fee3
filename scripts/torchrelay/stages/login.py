"""Login: short-lived credentials for the steps that follow, from the job's identity or the repository's secrets.

Each of AWS, registry and cluster is independent of the others; nothing is written outside the runner's temporary folder.
"""

import base64
import json
import logging
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import botocore.exceptions
from botocore import UNSIGNED
from botocore.config import Config
from pydantic import SecretStr

from torchrelay.core import runner
from torchrelay.core.errors import LoginFailed, RegistryError
from torchrelay.core.json_text import parse_untrusted
from torchrelay.core.text import printable, shown
from torchrelay.credentials import kubeconfig
from torchrelay.credentials.oidc import Identity, identity
from torchrelay.credentials.trust_policy import AUDIENCE, ROLE, refused
from torchrelay.oci import ecr
from torchrelay.oci.ecr import is_ecr
from torchrelay.oci.reference import parse_reference
from torchrelay.oci.registry import Registry

log = logging.getLogger("torchrelay")

DURATION_S = 3600  # every role allows it, and no rollout takes longer
LONG_LIVED = re.compile(r"AKIA[A-Z0-9]{12,}")
REGION = re.compile(r"[a-z]{2,4}(?:-[a-z]+)+-\d")
NO_SECRET = SecretStr("")
DOCKER_HUB = "https://index.docker.io/v1/"  # the key under which docker stores Docker Hub

Export = Callable[[str, str], None]
Mask = Callable[[str], None]


@dataclass(frozen=True)
class LoginRequest:
    """What to log in to; empty text is absent. `registry` is a host, or a repository in it."""

    aws_role: str = ""
    aws_region: str = ""
    registry: str = ""
    username: str = ""
    password: SecretStr = NO_SECRET
    kubeconfig: SecretStr = NO_SECRET


@dataclass(frozen=True)
class Job:
    """The job and the ways to pass values to later steps; `mask` is called before the first use of a secret."""

    environment: Mapping[str, str]
    export: Export
    mask: Mask

    @property
    def temporary(self) -> Path:
        """The runner's folder that is deleted after the job.

        Raises LoginFailed outside of a job.
        """
        folder = self.environment.get("RUNNER_TEMP", "")
        if not folder:
            raise LoginFailed(
                "RUNNER_TEMP is not set: this is not a GitHub Actions job, and credentials are written nowhere else",
                "elsewhere use `docker login`, KUBECONFIG and `aws sso login`; all verbs read their results",
            )
        return Path(folder)


def this_job() -> Job:
    """Return the job that this process runs in."""
    return Job(os.environ, runner.export_env, runner.mask)


def run(request: LoginRequest, job: Job) -> dict[str, Any]:
    """Log in to everything in the request; a value of the result is empty when it was not requested.

    `aws` is the assumed role's ARN, `expires` (ISO 8601) the end of its credentials, `registry` a host and `kubeconfig` a file.

    Nothing is exported before every login has worked. Raises LoginFailed.
    """
    host = _registry_host(request)
    config = _kubeconfig(request, job)
    done, exports = dict.fromkeys(("aws", "expires", "registry", "kubeconfig"), ""), dict[str, str]()
    if request.aws_role:
        done["aws"], done["expires"], variables = _aws(request, job)
        exports |= variables
    if host:
        exports["DOCKER_CONFIG"] = _docker(host, *_pair(host, request), job)
        done["registry"] = host
    if config:
        done["kubeconfig"] = exports["KUBECONFIG"] = str(_write_private(job.temporary / "torchrelay-kube" / "config", config))
    for name, value in exports.items():
        job.export(name, value)
    return done


def session_name(environment: Mapping[str, str]) -> str:
    """Return the name that CloudTrail shows for this run: letters, digits and +=,.@-_, 64 at most."""
    repository = environment.get("GITHUB_REPOSITORY", "").rpartition("/")[2]
    parts = ["torchrelay", repository[:30], environment.get("GITHUB_RUN_ID", ""), environment.get("GITHUB_RUN_ATTEMPT", "")]
    return re.sub(r"[^A-Za-z0-9+=,.@_-]", "-", "-".join(part for part in parts if part))[:64]


def _aws(request: LoginRequest, job: Job) -> tuple[str, str, dict[str, str]]:
    """Return the assumed role's ARN, when its credentials expire, and the variables that hold them."""
    region = request.aws_region or job.environment.get("AWS_REGION") or job.environment.get("AWS_DEFAULT_REGION") or ""
    if not ROLE.fullmatch(request.aws_role):
        raise LoginFailed(f"{shown(request.aws_role)} is not the ARN of a role", "write arn:aws:iam::ACCOUNT:role/NAME")
    if not REGION.fullmatch(region):
        message = f"{shown(region)} is not an AWS region" if region else "no AWS region is set"
        raise LoginFailed(message, "set `aws-region: eu-west-1` (yours) where the workflow is called")
    if LONG_LIVED.fullmatch(job.environment.get("AWS_ACCESS_KEY_ID", "")):
        log.warning("this job's environment contains a long-lived AWS key; the role is used instead: delete the key and its secret")
    token = identity(AUDIENCE, job.environment)
    job.mask(token.token.get_secret_value())
    answer = _assumed(request.aws_role, region, session_name(job.environment), token)
    keys = answer["Credentials"]
    values = {
        "AWS_ACCESS_KEY_ID": keys["AccessKeyId"],
        "AWS_SECRET_ACCESS_KEY": keys["SecretAccessKey"],
        "AWS_SESSION_TOKEN": keys["SessionToken"],
    }
    for value in values.values():
        job.mask(value)
    return (
        str(answer["AssumedRoleUser"]["Arn"]),
        keys["Expiration"].isoformat(),
        {**values, "AWS_REGION": region, "AWS_DEFAULT_REGION": region},
    )


def _assumed(role: str, region: str, session: str, token: Identity) -> dict[str, Any]:
    """Exchange the token at STS; STS's own failures are retried."""
    retried = Config(
        signature_version=UNSIGNED, connect_timeout=10, read_timeout=30, retries={"mode": "standard", "total_max_attempts": 5}
    )
    try:
        client = boto3.Session(region_name=region).client("sts", config=retried)
        return dict(
            client.assume_role_with_web_identity(
                RoleArn=role, RoleSessionName=session, WebIdentityToken=token.token.get_secret_value(), DurationSeconds=DURATION_S
            )
        )
    except botocore.exceptions.ClientError as error:
        details = error.response.get("Error", {})
        raise refused(role, str(details.get("Code", "")), printable(str(details.get("Message", ""))), token) from None
    except botocore.exceptions.BotoCoreError as error:
        raise LoginFailed(f"STS in {region} is unreachable: {printable(str(error))}", "check aws-region and the network") from None


def _registry_host(request: LoginRequest) -> str:
    """Return the registry to log in to; empty when there is none, or when push gets ECR's credentials through this login's role."""
    password = request.password.get_secret_value()
    host = request.registry.partition("/")[0]
    if not request.username and not password:
        return host if is_ecr(host) and not request.aws_role else ""
    if not host:
        raise LoginFailed("registry credentials are set, but no registry", "set `repository`, or `--registry HOST`")
    if is_ecr(host):
        raise LoginFailed(f"{host}: ECR does not use a separate password", "remove the registry secrets and set `aws-role`")
    if not request.username or not password:
        missing = "registry-password" if request.username else "registry-username"
        raise LoginFailed(
            f"{host}: {missing} is empty", f"pass the secret `{missing}`; pull requests from forks do not get secrets"
        )
    try:
        parse_reference(f"{host}/x", "latest")
    except RegistryError:
        raise LoginFailed(f"{shown(host)} is not a registry", "write the host, with a port if needed, without https://") from None
    return host


def _pair(host: str, request: LoginRequest) -> tuple[str, str]:
    """Return user and password; ECR's come from the AWS credentials of an earlier login."""
    if not ecr.is_ecr(host):
        return request.username, request.password.get_secret_value()
    try:
        return ecr.registry_credentials(host)
    except RegistryError as error:
        raise LoginFailed(error.message, error.fix) from error


def _docker(host: str, user: str, password: str, job: Job) -> str:
    """Check that the registry accepts the password; return the folder where docker and our push will find it.

    The folder is named `.docker` because some programs read only $HOME/.docker. ECR is not asked: its token is minutes old at most.
    """
    pair = base64.b64encode(f"{user}:{password}".encode()).decode()
    for secret in (password, pair):
        job.mask(secret)
    try:
        if not is_ecr(host):
            Registry(parse_reference(f"{host}/x", "latest").base, credentials=lambda _: (user, password)).check_access()
    except RegistryError as error:
        raise LoginFailed(
            f"{host}: {error.message}",
            "; or ".join(filter(None, (error.fix, "correct the secrets registry-username and registry-password"))),
        ) from error
    folder = job.temporary / "torchrelay-home" / ".docker"
    before = (
        Path(job.environment.get("DOCKER_CONFIG") or Path(job.environment.get("HOME", "/nonexistent")) / ".docker") / "config.json"
    )
    _write_private(folder / "config.json", json.dumps(docker_config(_read(before), host, pair), indent=2) + "\n")
    return str(folder)


def docker_config(before: dict[str, Any], host: str, pair: str) -> dict[str, Any]:
    """Return docker's config.json with one more login; the logins of earlier steps stay.

    `credsStore` is removed: otherwise docker would ask only that program and never see this login.
    """
    auths = before.get("auths")
    key = DOCKER_HUB if host == "docker.io" else host
    helpers = {name: helper for name, helper in (before.get("credHelpers") or {}).items() if name != host}
    others = {name: value for name, value in before.items() if name not in ("auths", "credHelpers", "credsStore")}
    return {**others, **({"credHelpers": helpers} if helpers else {}), "auths": {**(auths or {}), key: {"auth": pair}}}


def _kubeconfig(request: LoginRequest, job: Job) -> str:
    """Return the text to write, with its secrets masked; empty when there is none.

    It is serialised from the checked configuration, so another parser cannot read anything else from it.
    """
    data = request.kubeconfig.get_secret_value()
    if not data.strip():
        return ""
    config = kubeconfig.checked(kubeconfig.text_of(data))
    for secret in kubeconfig.secrets_of(config):
        job.mask(secret)
    return json.dumps(config, indent=2) + "\n"


def _write_private(path: Path, text: str) -> Path:
    """Write a file that no other user can read, not even while it is being written."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    return path


def _read(path: Path) -> dict[str, Any]:
    try:
        config = parse_untrusted(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}
