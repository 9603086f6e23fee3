"""GitHub's identity token for a job: requested for one audience, never printed, and parsed only to explain a refusal.

The request (ACTIONS_ID_TOKEN_REQUEST_URL and _TOKEN, `value` of the response): https://docs.github.com/en/actions/reference/security/oidc

The package `id` is not used, for these reasons (measured with 1.6.1 against a server on this machine): it ignores HTTPS_PROXY and
HTTP_PROXY, so it cannot work on a runner behind a proxy; it follows redirects, with the job's token when the host stays the same;
it fails at once with a 503; and its message repeats the body of the response.
"""

import base64
import logging
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

import requests
from pydantic import SecretStr

from torchrelay.core.errors import LoginFailed
from torchrelay.core.json_text import parse_untrusted
from torchrelay.core.retry import Policy, RetryLater, pause, retry_after_s, retrying
from torchrelay.core.text import printable
from torchrelay.core.urls import is_private

log = logging.getLogger("torchrelay")

URL, TOKEN = "ACTIONS_ID_TOKEN_REQUEST_URL", "ACTIONS_ID_TOKEN_REQUEST_TOKEN"
POLICY = Policy(attempts=5, first_wait_s=0.5)
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
    """A token and its claims about the job; the cloud verifies its signature, which is not verified here."""

    token: SecretStr
    claims: Mapping[str, Any]

    def claim(self, name: str) -> str:
        """Return a claim as printable text; empty when the token does not have it."""
        value = self.claims.get(name, "")
        return printable(str(value)) if isinstance(value, (str, int)) else ""


@dataclass(frozen=True)
class Subject:
    """The parts of `sub`. The ids are empty in the form that has only names.

    `repo:OWNER/NAME:CONTEXT`, or `repo:OWNER@ID/NAME@ID:CONTEXT` for repositories created, renamed or moved since 2026-07-15 and
    those that opted in (https://github.blog/changelog/2026-04-23-immutable-subject-claims-for-github-actions-oidc-tokens/).
    """

    owner: str
    name: str
    context: str
    owner_id: str = ""
    repository_id: str = ""

    def forms(self, owner_id: str, repository_id: str) -> tuple[str, str]:
        """Return both forms of this subject, the one with only names first."""
        ids = f"repo:{self.owner}@{owner_id}/{self.name}@{repository_id}:{self.context}"
        return f"repo:{self.owner}/{self.name}:{self.context}", ids


def parse_subject(text: str) -> Subject | None:
    """Split a `sub` into its parts; None when the organisation has customised it."""
    match = SUBJECT.fullmatch(text)
    if match is None:
        return None
    return Subject(match["owner"], match["name"], match["context"], match["owner_id"] or "", match["id"] or "")


def identity(audience: str, environment: Mapping[str, str] = os.environ, sleep: Callable[[float], None] = pause) -> Identity:
    """Request a token of this job for one audience from GitHub.

    Raises LoginFailed when the job is not allowed to have one, or GitHub does not answer.
    """
    url, bearer = environment.get(URL, ""), environment.get(TOKEN, "")
    if not url or not bearer:
        raise _unavailable(environment)
    _require_safe(url)
    text = _request_token(f"{url}{'&' if urlsplit(url).query else '?'}audience={quote(audience, safe='')}", bearer, sleep)
    return Identity(SecretStr(text), read_claims(text))


def read_claims(token: str) -> dict[str, Any]:
    """Return the claims of a JWT without verifying its signature; empty when the text is not a JWT."""
    try:
        _, body, _ = token.split(".")
        claims = parse_untrusted(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    except ValueError:
        return {}
    return claims if isinstance(claims, dict) else {}


def _unavailable(environment: Mapping[str, str]) -> LoginFailed:
    if environment.get("ACT"):
        return LoginFailed(
            "act gives jobs no identity token",
            "leave aws-role empty under act, and pass your session's AWS_* variables (`act --env-file`)",
        )
    if environment.get("GITHUB_ACTIONS") != "true":
        return LoginFailed(
            "there is no identity token outside of a GitHub job",
            "run `aws sso login` or set AWS_PROFILE, and leave the role out",
        )
    return LoginFailed(
        "this job is not allowed to request an identity token: it lacks `id-token: write`",
        f"{PERMISSIONS}\n  (runs for a fork's pull request never get it)",
    )


def _require_safe(url: str) -> None:
    if is_private(url):
        return
    raise LoginFailed(
        f"{URL} is not an https:// address: the job's credentials would be sent unencrypted", "leave it as the runner sets it"
    )


def _request_token(url: str, bearer: str, sleep: Callable[[float], None]) -> str:
    def attempt() -> requests.Response:
        headers = {"Authorization": f"Bearer {bearer}", "Accept": "application/json"}
        try:
            response = requests.get(url, headers=headers, timeout=TIMEOUT_S, allow_redirects=False)
        except (requests.ConnectionError, requests.Timeout) as error:
            raise RetryLater(type(error).__name__) from error
        if response.status_code in RETRIED:
            raise RetryLater(str(response.status_code), retry_after_s(response.headers.get("Retry-After")))
        return response

    def announce(failure: RetryLater, wait_s: float) -> None:
        log.info("GitHub's token service: %s; trying again in %.1f s", failure.reason, wait_s)

    try:
        response = retrying(attempt, POLICY, before_wait=announce, sleep=sleep)
    except RetryLater as failure:
        raise LoginFailed(
            f"GitHub gave no identity token in {POLICY.attempts} attempts: {failure.reason}",
            "see https://www.githubstatus.com, then run the job again",
        ) from None  # the cause names the address
    except requests.RequestException as error:
        raise LoginFailed(f"{URL} cannot be used: {type(error).__name__}", "leave it as the runner sets it") from error
    if response.status_code != 200:
        raise LoginFailed(f"GitHub refuses to give the job an identity token: {response.status_code}", PERMISSIONS)
    return _value(response)


def _value(response: requests.Response) -> str:
    try:
        value = parse_untrusted(response.content)["value"]
    except (ValueError, KeyError, TypeError):
        value = None
    if not isinstance(value, str) or value.count(".") != 2:
        raise LoginFailed("GitHub's token service answered without a token", "run the job again")
    return value
