"""The comment on a pull request: found by its marker and updated in place (GitHub REST API, version 2022-11-28)."""

import hashlib
import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from torchrelay.core.errors import GitHubRefused
from torchrelay.core.json_text import parse_untrusted
from torchrelay.core.retry import Policy, RetryLater, pause, retry_after_s, retrying
from torchrelay.core.text import printable
from torchrelay.core.urls import is_private

log = logging.getLogger("torchrelay")

MARKER = "<!-- torchrelay -->"
ACTIONS_BOT = "github-actions[bot]"  # the author of comments written with a workflow's own token, which cannot ask for its user
DEADLINE_S = 90.0
POLICY = Policy(attempts=30, first_wait_s=1.0, longest_wait_s=2 * DEADLINE_S)
"""A wait longer than the deadline is never shortened and tried early: `put` gives up if a wait would pass the deadline."""
TIMEOUT_S = 10.0  # of one request
PAGE = 100  # comments per page: GitHub's maximum
PAGES = 100
_RUN = re.compile(r"<!-- run (\d{1,15}) -->")
_REPOSITORY = re.compile(r"[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+")


class CommentForbidden(GitHubRefused):
    """The token is not allowed to comment on this pull request."""


@dataclass(frozen=True)
class PullRequest:
    """The pull request to comment on, and the token to do it with.

    `workflow` is the file of the calling workflow and `run` the number of its run: an older run does not overwrite a newer one's
    comment.
    """

    api: str
    repository: str
    number: int
    token: str
    workflow: str = ""
    run: int = 0

    @property
    def head(self) -> str:
        """The first lines of the comment; each workflow of a repository has its own comment."""
        return f"{MARKER}\n<!-- workflow {hashlib.sha256(self.workflow.encode()).hexdigest()[:12]} -->\n"


def pull_request_of(environment: Mapping[str, str]) -> PullRequest | None:
    """Return the pull request that this run is about; None if there is none, or no token.

    Raises GitHubRefused if GITHUB_API_URL or GITHUB_REPOSITORY is malformed.
    """
    try:
        event = parse_untrusted(Path(environment.get("GITHUB_EVENT_PATH", "")).read_bytes())
        number = event["pull_request"]["number"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    token = environment.get("GITHUB_TOKEN", "")
    if not token or not isinstance(number, int) or number < 1:
        return None
    api = environment.get("GITHUB_API_URL") or "https://api.github.com"
    repository = environment.get("GITHUB_REPOSITORY", "")
    if not is_private(api):
        raise GitHubRefused(f"GITHUB_API_URL is {printable(api)}: the token is only sent over TLS", "use https")
    if not _REPOSITORY.fullmatch(repository) or set(repository.split("/")) & {".", ".."}:
        raise GitHubRefused(f"GITHUB_REPOSITORY is {printable(repository)!r}, not owner/name", "run it in a workflow")
    workflow = environment.get("GITHUB_WORKFLOW_REF", "").partition("@")[0] or environment.get("GITHUB_WORKFLOW", "")
    run = environment.get("GITHUB_RUN_NUMBER", "")
    return PullRequest(api.rstrip("/"), repository, number, token, workflow, int(run) if run.isdecimal() else 0)


class Comments:
    """The comments of one pull request; `clock` and `sleep` count seconds."""

    def __init__(
        self,
        pull_request: PullRequest,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = pause,
        deadline_s: float = DEADLINE_S,
    ) -> None:
        self.pull_request, self.clock, self.sleep, self.deadline_s = pull_request, clock, sleep, deadline_s
        self.session = requests.Session()
        self.session.trust_env = False  # ignore .netrc: it would replace the token
        self.session.headers.update(
            {
                "Authorization": f"Bearer {pull_request.token}",
                "Accept": "application/vnd.github+json",
                "X-GitHub-Api-Version": "2022-11-28",
                "User-Agent": "torchrelay",
            }
        )

    def put(self, body: str) -> str:
        """Create the comment or update it; return its URL, or "" if a newer run has already commented.

        Every attempt searches for the comment first: an earlier attempt whose response was lost may have created it.

        Raises:
            CommentForbidden: the token has no permission to comment; a fork's token never has.
            GitHubRefused: anything else, after retries until the deadline.
        """
        text = f"{self.pull_request.head}<!-- run {self.pull_request.run} -->\n{body}"
        end = self.clock() + self.deadline_s

        def give_up(failure: RetryLater) -> GitHubRefused:
            return GitHubRefused(f"the comment on the pull request was not written: {failure}", "run the job again")

        def before_wait(failure: RetryLater, wait_s: float) -> None:
            if self.clock() + wait_s > end:
                raise give_up(failure) from failure
            log.info("comment: %s; retrying in %.0f s", failure, wait_s)

        try:
            return retrying(lambda: self._put_once(text), POLICY, before_wait=before_wait, sleep=self.sleep)
        except RetryLater as failure:
            raise give_up(failure) from failure

    def _put_once(self, text: str) -> str:
        issues = f"/repos/{self.pull_request.repository}/issues"
        existing = self._existing()
        if existing is None:
            comment = self._request("POST", f"{issues}/{self.pull_request.number}/comments", {"body": text})
        else:
            other_run = _RUN.search(str(existing["body"])[:400])
            if other_run and int(other_run[1]) > self.pull_request.run:
                log.info("comment: the newer run %s has already commented", other_run[1])
                return ""
            comment = self._request("PATCH", f"{issues}/comments/{existing['id']}", {"body": text})
        return str(comment.get("html_url", "")) if isinstance(comment, dict) else ""

    def _existing(self) -> dict[str, Any] | None:
        """Return the comment that starts with the marker and was written with this token's user; anyone can write the marker."""
        login = ""
        for comment in self._all():
            if not isinstance(comment, dict) or not isinstance(comment.get("id"), int):
                continue
            # GitHub keeps the line ends that it was sent; an edit in a browser turns them into \r\n.
            if not str(comment.get("body", "")).replace("\r\n", "\n").startswith(self.pull_request.head):
                continue
            login = login or self._login()
            if isinstance(comment.get("user"), dict) and comment["user"].get("login") == login:
                return comment
        return None

    def _login(self) -> str:
        """Return the user name that this token writes comments as."""
        try:
            user = self._request("GET", "/user")
        except GitHubRefused:
            return ACTIONS_BOT
        return str(user["login"]) if isinstance(user, dict) and user.get("login") else ACTIONS_BOT

    def _all(self) -> Iterator[Any]:
        for page in range(1, PAGES + 1):
            path = f"/repos/{self.pull_request.repository}/issues/{self.pull_request.number}/comments?per_page={PAGE}&page={page}"
            comments = self._request("GET", path)
            if not isinstance(comments, list):
                raise GitHubRefused("GitHub's reply is not a list of comments", "check GITHUB_API_URL")
            yield from comments
            if len(comments) < PAGE:
                return

    def _request(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        url = self.pull_request.api + path
        try:
            response = self.session.request(method, url, json=body, timeout=TIMEOUT_S, allow_redirects=False)
        except requests.RequestException as error:
            raise RetryLater(f"{method}: {type(error).__name__}") from error
        if response.status_code in (200, 201):
            try:
                return parse_untrusted(response.content)
            except ValueError as error:
                raise RetryLater(f"{method}: the response is not JSON") from error
        raise self._refusal(method, response)

    def _refusal(self, method: str, response: requests.Response) -> Exception:
        status, headers = response.status_code, response.headers
        message = printable(_message(response))
        limited = status == 429 or (
            status == 403
            and ("retry-after" in headers or headers.get("x-ratelimit-remaining") == "0" or "rate limit" in message.lower())
        )
        if limited or status >= 500:
            return RetryLater(f"{method}: {status} {message}", _asked_wait_s(headers))
        if status in (403, 404):
            return CommentForbidden(
                f"the token is not allowed to comment on the pull request ({status} {message})",
                "add `permissions: {pull-requests: write}` to the calling job; pull requests from forks never have it",
            )
        return GitHubRefused(
            f"comment on the pull request: {method} failed with {status} {message}", "check that GITHUB_TOKEN is valid"
        )


def _message(response: requests.Response) -> str:
    try:
        reply = parse_untrusted(response.content)
    except ValueError:
        return ""
    return str(reply.get("message", "")) if isinstance(reply, dict) else ""


def _asked_wait_s(headers: Mapping[str, str]) -> float | None:
    """Return the wait (s) that GitHub asks for: Retry-After, otherwise until the rate limit resets; None if it asks for none."""
    wait_s = retry_after_s(headers.get("retry-after"))
    if wait_s is not None:
        return wait_s
    reset = headers.get("x-ratelimit-reset", "")
    if headers.get("x-ratelimit-remaining") == "0" and reset.isdecimal():
        return max(1.0, float(reset) - time.time())
    return None
