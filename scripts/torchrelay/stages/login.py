"""Login: short-lived credentials for the steps that follow, from the job's identity or the repository's secrets.

What is given is logged in to, each on its own; nothing is written outside of the runner's temporary folder.
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

from pydantic import SecretStr

from torchrelay.core.errors import LoginFailed, RegistryError
from torchrelay.core.text import printable, shown
from torchrelay.credentials import kubeconfig
from torchrelay.credentials.oidc import Identity, identity
from torchrelay.credentials.trust_policy import AUDIENCE, ROLE, refused

log = logging.getLogger("torchrelay")

DURATION_S = 3600  # what every role allows, and longer than any rollout takes
LONG_LIVED = re.compile(r"AKIA[A-Z0-9]{12,}")
REGION = re.compile(r"[a-z]{2,4}(?:-[a-z]+)+-\d")
NO_SECRET = SecretStr("")
DOCKER_HUB = "https://index.docker.io/v1/"  # the name docker itself stores its hub under

Export = Callable[[str, str], None]
Mask = Callable[[str], None]


@dataclass(frozen=True)
class Wanted:
    """What to log in to; empty text is absent. `registry` is a host, or a repository in it."""

    aws_role: str = ""
    aws_region: str = ""
    registry: str = ""
    username: str = ""
    password: SecretStr = NO_SECRET
    kubeconfig: SecretStr = NO_SECRET


@dataclass(frozen=True)
class Job:
    """Where this runs, and how values get to later steps: `mask` is called before the first use of a secret."""

    environment: Mapping[str, str]
    export: Export
    mask: Mask

    @property
    def temporary(self) -> Path:
        """The runner's folder that goes away with the job.

        Raises LoginFailed outside of a job.
        """
        folder = self.environment.get("RUNNER_TEMP", "")
        if not folder:
            raise LoginFailed(
                "RUNNER_TEMP is not set: this is no job of GitHub Actions, and nothing is written elsewhere",
                "at home use `docker login`, KUBECONFIG and `aws sso login`; all verbs read what these leave",
            )
        return Path(folder)


def this_job() -> Job:
    """Return the job that this process runs in."""
    from torchrelay.core import runner  # noqa: PLC0415 -- only a login writes to the job

    return Job(os.environ, runner.export_env, runner.mask)


def login(wanted: Wanted, job: Job) -> dict[str, Any]:
    """Log in to all that is given and say to what; each is empty when it was not asked for.

    `aws` is who AWS takes the job for, `expires` (ISO 8601) when that ends, `registry` a host and `kubeconfig` a file.

    Nothing is exported before all of it has worked. Raises LoginFailed.
    """
    host = _registry_host(wanted)
    config = _kubeconfig(wanted, job)
    done, exports = dict.fromkeys(("aws", "expires", "registry", "kubeconfig"), ""), dict[str, str]()
    if wanted.aws_role:
        done["aws"], done["expires"], found = _aws(wanted, job)
        exports |= found
    if host:
        exports["DOCKER_CONFIG"] = _docker(host, *_pair(host, wanted), job)
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


def _aws(wanted: Wanted, job: Job) -> tuple[str, str, dict[str, str]]:
    """Return who we are now, until when, and the variables that say so."""
    region = wanted.aws_region or job.environment.get("AWS_REGION") or job.environment.get("AWS_DEFAULT_REGION") or ""
    if not ROLE.fullmatch(wanted.aws_role):
        raise LoginFailed(f"{shown(wanted.aws_role)} is not the ARN of a role", "write arn:aws:iam::ACCOUNT:role/NAME")
    if not REGION.fullmatch(region):
        what = f"{shown(region)} is not a region of AWS" if region else "no region is named for AWS"
        raise LoginFailed(what, "set `aws-region: eu-west-1` (yours) where the workflow is called")
    if LONG_LIVED.fullmatch(job.environment.get("AWS_ACCESS_KEY_ID", "")):
        log.warning("a long-lived AWS key is in this job's environment; the role is used instead: delete the key and its secret")
    who = identity(AUDIENCE, job.environment)
    job.mask(who.token.get_secret_value())
    answer = _assumed(wanted.aws_role, region, session_name(job.environment), who)
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


def _assumed(role: str, region: str, session: str, who: Identity) -> dict[str, Any]:
    """Exchange the token at STS, whose own trouble is retried."""
    import boto3  # noqa: PLC0415 -- half a second that only AWS addresses need to pay
    import botocore.exceptions  # noqa: PLC0415
    from botocore import UNSIGNED  # noqa: PLC0415
    from botocore.config import Config  # noqa: PLC0415

    retried = Config(
        signature_version=UNSIGNED, connect_timeout=10, read_timeout=30, retries={"mode": "standard", "total_max_attempts": 5}
    )
    try:
        client = boto3.Session(region_name=region).client("sts", config=retried)
        return dict(
            client.assume_role_with_web_identity(
                RoleArn=role, RoleSessionName=session, WebIdentityToken=who.token.get_secret_value(), DurationSeconds=DURATION_S
            )
        )
    except botocore.exceptions.ClientError as error:
        told = error.response.get("Error", {})
        raise refused(role, str(told.get("Code", "")), printable(str(told.get("Message", ""))), who) from None
    except botocore.exceptions.BotoCoreError as error:
        raise LoginFailed(f"STS in {region} cannot be asked: {printable(str(error))}", "check aws-region and the network") from None


def _registry_host(wanted: Wanted) -> str:
    """Return the registry to log in to, empty when there is none, or push gets ECR's own credentials by the role of this login."""
    from torchrelay.oci.ecr import is_ecr  # noqa: PLC0415 -- 0.1 s for botocore
    from torchrelay.oci.reference import parse_reference  # noqa: PLC0415

    password = wanted.password.get_secret_value()
    host = wanted.registry.partition("/")[0]
    if not wanted.username and not password:
        return host if is_ecr(host) and not wanted.aws_role else ""
    if not host:
        raise LoginFailed("there are credentials for a registry, but no registry", "set `repository`, or `--registry HOST`")
    if is_ecr(host):
        raise LoginFailed(f"{host}: ECR takes no password of its own", "leave the registry's secrets out and set `aws-role`")
    if not wanted.username or not password:
        missing = "registry-password" if wanted.username else "registry-username"
        raise LoginFailed(f"{host}: {missing} is empty", f"pass the secret `{missing}`; a fork's pull request gets none")
    try:
        parse_reference(f"{host}/x", "latest")
    except RegistryError:
        raise LoginFailed(f"{shown(host)} is not a registry", "write its host, and port if it has one, without https://") from None
    return host


def _pair(host: str, wanted: Wanted) -> tuple[str, str]:
    """Return user and password; ECR's come from the AWS credentials that an earlier login left."""
    from torchrelay.oci import ecr  # noqa: PLC0415 -- as in _registry_host

    if not ecr.is_ecr(host):
        return wanted.username, wanted.password.get_secret_value()
    try:
        return ecr.registry_credentials(host)
    except RegistryError as error:
        raise LoginFailed(error.message, error.fix) from error


def _docker(host: str, user: str, password: str, job: Job) -> str:
    """See that the registry takes the password; return the folder where docker and our push then find it.

    The folder is called `.docker`, as some programs read $HOME/.docker alone. ECR is not asked: its token is minutes old at most.
    """
    from torchrelay.oci.ecr import is_ecr  # noqa: PLC0415 -- as in _registry_host
    from torchrelay.oci.reference import parse_reference  # noqa: PLC0415 -- as in _registry_host
    from torchrelay.oci.registry import Registry  # noqa: PLC0415 -- as in _registry_host

    pair = base64.b64encode(f"{user}:{password}".encode()).decode()
    for secret in (password, pair):
        job.mask(secret)
    try:
        if not is_ecr(host):
            Registry(parse_reference(f"{host}/x", "latest").base, credentials=lambda _: (user, password)).check_access()
    except RegistryError as error:
        raise LoginFailed(f"{host}: {error.message}", "correct the secrets registry-username and registry-password") from error
    folder = job.temporary / "torchrelay-home" / ".docker"
    before = (
        Path(job.environment.get("DOCKER_CONFIG") or Path(job.environment.get("HOME", "/nonexistent")) / ".docker") / "config.json"
    )
    _write_private(folder / "config.json", json.dumps(docker_config(_read(before), host, pair), indent=2) + "\n")
    return str(folder)


def docker_config(before: dict[str, Any], host: str, pair: str) -> dict[str, Any]:
    """Return docker's config.json with one more login; those of earlier steps stay.

    `credsStore` goes: docker would ask that program alone, and never see this login.
    """
    auths = before.get("auths")
    key = DOCKER_HUB if host == "docker.io" else host
    helpers = {name: helper for name, helper in (before.get("credHelpers") or {}).items() if name != host}
    kept = {name: value for name, value in before.items() if name not in ("auths", "credHelpers", "credsStore")}
    return {**kept, **({"credHelpers": helpers} if helpers else {}), "auths": {**(auths or {}), key: {"auth": pair}}}


def _kubeconfig(wanted: Wanted, job: Job) -> str:
    """Return the text to write, its secrets masked; empty when there is none.

    It is written anew from what was checked: no other reader can find something else in it.
    """
    data = wanted.kubeconfig.get_secret_value()
    if not data.strip():
        return ""
    config = kubeconfig.checked(kubeconfig.text_of(data))
    for secret in kubeconfig.secrets_of(config):
        job.mask(secret)
    return json.dumps(config, indent=2) + "\n"


def _write_private(path: Path, text: str) -> Path:
    """Write a file that nobody else can read, not even while it is written."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    return path


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
