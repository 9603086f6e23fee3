"""GitHub's identity token for a job: asked for one audience, never printed, read only to explain a refusal.

The request (ACTIONS_ID_TOKEN_REQUEST_URL and _TOKEN, `value` of the answer): https://docs.github.com/en/actions/reference/security/oidc
"""

import base64
import json
import logging
import os
import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

import requests
from pydantic import SecretStr

from torchrelay.core.errors import LoginFailed
from torchrelay.core.retry import pause
from torchrelay.core.text import printable

log = logging.getLogger("torchrelay")

URL, TOKEN = "ACTIONS_ID_TOKEN_REQUEST_URL", "ACTIONS_ID_TOKEN_REQUEST_TOKEN"
ATTEMPTS = 5
TIMEOUT_S = (10.0, 20.0)
RETRIED = {408, 425, 429, 500, 502, 503, 504}
PERMISSIONS = """give the calling job the permission, in your workflow:
    jobs:
      serve:
        permissions:
          contents: read
          id-token: write"""
SUBJECT = re.compile(r"repo:(?P<owner>[^/@:]+)(?:@(?P<owner_id>\d+))?/(?P<name>[^@:]+)(?:@(?P<id>\d+))?:(?P<context>.+)")


@dataclass(frozen=True)
class Identity:
    """A token and what it says of the job; the cloud trusts it by its signature, which is not looked at here."""

    token: SecretStr
    claims: Mapping[str, Any]

    def claim(self, name: str) -> str:
        """Return a claim as text fit for a message; empty when it is not there."""
        value = self.claims.get(name, "")
        return printable(str(value)) if isinstance(value, (str, int)) else ""


@dataclass(frozen=True)
class Subject:
    """`sub` taken apart. The ids are empty in the form with names alone.

    `repo:OWNER/NAME:CONTEXT`, or `repo:OWNER@ID/NAME@ID:CONTEXT` for repositories made, renamed or moved since 2026-07-15 and those
    that opted in (https://github.blog/changelog/2026-04-23-immutable-subject-claims-for-github-actions-oidc-tokens/).
    """

    owner: str
    name: str
    context: str
    owner_id: str = ""
    repository_id: str = ""

    def forms(self, owner_id: str, repository_id: str) -> tuple[str, str]:
        """Return both spellings of this subject, names alone first."""
        ids = f"repo:{self.owner}@{owner_id}/{self.name}@{repository_id}:{self.context}"
        return f"repo:{self.owner}/{self.name}:{self.context}", ids


def parse_subject(text: str) -> Subject | None:
    """Take a `sub` apart; None when an organisation has customised it to something else."""
    found = SUBJECT.fullmatch(text)
    if found is None:
        return None
    return Subject(found["owner"], found["name"], found["context"], found["owner_id"] or "", found["id"] or "")


def identity(audience: str, environment: Mapping[str, str] = os.environ, sleep: Callable[[float], None] = pause) -> Identity:
    """Ask GitHub for a token of this job for one audience.

    Raises LoginFailed when the job may not have one, or GitHub does not answer.
    """
    url, bearer = environment.get(URL, ""), environment.get(TOKEN, "")
    if not url or not bearer:
        raise _unavailable(environment)
    _require_safe(url)
    text = _asked(f"{url}{'&' if urlsplit(url).query else '?'}audience={quote(audience, safe='')}", bearer, sleep)
    return Identity(SecretStr(text), read_claims(text))


def read_claims(token: str) -> dict[str, Any]:
    """Return the claims of a JWT, its signature unseen; empty when it is none."""
    try:
        _, body, _ = token.split(".")
        claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    except ValueError:
        return {}
    return claims if isinstance(claims, dict) else {}


def _unavailable(environment: Mapping[str, str]) -> LoginFailed:
    if environment.get("ACT"):
        return LoginFailed(
            "act gives a job no identity token",
            "leave aws-role empty under act, and give it the AWS_* variables of a session of your own (`act --env-file`)",
        )
    if environment.get("GITHUB_ACTIONS") != "true":
        return LoginFailed(
            "there is no identity token outside of a GitHub job",
            "here, run `aws sso login`, or set AWS_PROFILE, and leave the role out",
        )
    return LoginFailed(
        "this job may not ask GitHub for an identity token: it lacks `id-token: write`",
        f"{PERMISSIONS}\n  (the run of a fork's pull request never gets it)",
    )


def _require_safe(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in ("127.0.0.1", "::1", "localhost")):
        return
    raise LoginFailed(
        f"{URL} is no https:// address: the job's credentials would go out in the clear", "leave it as the runner sets it"
    )


def _asked(url: str, bearer: str, sleep: Callable[[float], None]) -> str:
    reason = ""
    for number in range(ATTEMPTS):
        if number:
            sleep(0.5 * 2 ** (number - 1) * random.uniform(0.75, 1.25))  # noqa: S311 -- spreads retries, guards nothing
        try:
            answer = requests.get(
                url,
                headers={"Authorization": f"Bearer {bearer}", "Accept": "application/json"},
                timeout=TIMEOUT_S,
                allow_redirects=False,
            )
        except (requests.ConnectionError, requests.Timeout) as error:
            reason = type(error).__name__
            continue
        except requests.RequestException as error:
            raise LoginFailed(f"{URL} cannot be asked: {type(error).__name__}", "leave it as the runner sets it") from error
        if answer.status_code == 200:
            return _value(answer)
        reason = str(answer.status_code)
        if answer.status_code not in RETRIED:
            raise LoginFailed(f"GitHub refuses the job an identity token: {reason}", PERMISSIONS)
        log.info("GitHub's token service: %s; asking again", reason)
    raise LoginFailed(
        f"GitHub gave no identity token in {ATTEMPTS} attempts: {reason}",
        "see https://www.githubstatus.com, then run the job again",
    )


def _value(answer: requests.Response) -> str:
    try:
        value = answer.json()["value"]
    except (ValueError, KeyError, TypeError):
        value = None
    if not isinstance(value, str) or value.count(".") != 2:
        raise LoginFailed("GitHub's token service answered without a token", "run the job again")
    return value
