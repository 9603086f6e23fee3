"""One comment on the pull request, found again by its marker and updated in place (GitHub REST API, version 2022-11-28)."""

import hashlib
import json
import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from torchrelay.core.errors import GitHubRefused
from torchrelay.core.retry import pause
from torchrelay.core.text import printable

if TYPE_CHECKING:
    import requests

log = logging.getLogger("torchrelay")

MARKER = "<!-- torchrelay -->"
ACTIONS_BOT = "github-actions[bot]"  # whom a workflow's own token comments as; such a token may not ask who it is
DEADLINE_S = 90.0
TIMEOUT_S = 10.0
PAGE = 100
PAGES = 100
_RUN = re.compile(r"<!-- run (\d{1,15}) -->")
_REPOSITORY = re.compile(r"[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+")
LOOPBACK = ("127.0.0.1", "localhost", "::1")


class MayNot(GitHubRefused):
    """The token may not comment here."""


class _Later(Exception):
    def __init__(self, why: str, after_s: float | None = None) -> None:
        super().__init__(why)
        self.after_s = after_s


@dataclass(frozen=True)
class Thread:
    """Where the comment goes and who writes it. `run` counts the runs of the workflow: an older one does not overwrite a newer."""

    api: str
    repository: str
    number: int
    token: str
    workflow: str = ""
    run: int = 0

    @property
    def head(self) -> str:
        """The first lines of the comment; two workflows of a repository keep their own."""
        return f"{MARKER}\n<!-- workflow {hashlib.sha256(self.workflow.encode()).hexdigest()[:12]} -->\n"


def thread_of(environment: Mapping[str, str]) -> Thread | None:
    """Return the pull request that this run is about; None when there is none, or no token.

    Raises GitHubRefused when GitHub's own environment is not what it should be.
    """
    try:
        event = json.loads(Path(environment.get("GITHUB_EVENT_PATH", "")).read_bytes())
        number = event["pull_request"]["number"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    token = environment.get("GITHUB_TOKEN", "")
    if not token or not isinstance(number, int) or number < 1:
        return None
    api = environment.get("GITHUB_API_URL") or "https://api.github.com"
    repository = environment.get("GITHUB_REPOSITORY", "")
    parts = urlsplit(api)
    if parts.scheme != "https" and (parts.scheme != "http" or parts.hostname not in LOOPBACK):
        raise GitHubRefused(f"GITHUB_API_URL is {printable(api)}: the token is not sent without TLS", "use https")
    if not _REPOSITORY.fullmatch(repository) or set(repository.split("/")) & {".", ".."}:
        raise GitHubRefused(f"GITHUB_REPOSITORY is {printable(repository)!r}, not owner/name", "run it in a workflow")
    workflow = environment.get("GITHUB_WORKFLOW_REF", "").partition("@")[0] or environment.get("GITHUB_WORKFLOW", "")
    run = environment.get("GITHUB_RUN_NUMBER", "")
    return Thread(api.rstrip("/"), repository, number, token, workflow, int(run) if run.isdecimal() else 0)


class Comments:
    """The comments of one pull request."""

    def __init__(
        self,
        thread: Thread,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = pause,
        deadline_s: float = DEADLINE_S,
    ) -> None:
        import requests  # noqa: PLC0415 -- only for who comments

        self.thread, self.clock, self.sleep, self.deadline_s = thread, clock, sleep, deadline_s
        self.session = requests.Session()
        self.session.trust_env = False  # no .netrc: it would replace the token
        self.session.headers.update(
            {
                "Authorization": f"Bearer {thread.token}",
                "Accept": "application/vnd.github+json",
                "X-GitHub-Api-Version": "2022-11-28",
                "User-Agent": "torchrelay",
            }
        )

    def put(self, body: str) -> str:
        """Create our comment, or update it; return its address, empty when a newer run has commented already.

        A try begins with the search every time: one whose answer was lost may have created the comment.

        Raises:
            MayNot: the token has no right to; a fork's never has.
            GitHubRefused: anything else, after retries until the deadline.
        """
        text = f"{self.thread.head}<!-- run {self.thread.run} -->\n{body}"
        end, gap = self.clock() + self.deadline_s, 1.0
        while True:
            try:
                return self._put_once(text)
            except _Later as later:
                wait = gap if later.after_s is None else later.after_s
                if self.clock() + wait > end:
                    raise GitHubRefused(f"the pull request's comment was not written: {later}", "run the job again") from later
                log.info("comment: %s; once more in %.0f s", later, wait)
                self.sleep(wait)
                gap = min(2 * gap, 20.0)

    def _put_once(self, text: str) -> str:
        issues = f"/repos/{self.thread.repository}/issues"
        mine = self._mine()
        if mine is None:
            made = self._ask("POST", f"{issues}/{self.thread.number}/comments", {"body": text})
        else:
            before = _RUN.search(str(mine["body"])[:400])
            if before and int(before[1]) > self.thread.run:
                log.info("comment: run %s, newer than this one, has commented already", before[1])
                return ""
            made = self._ask("PATCH", f"{issues}/comments/{mine['id']}", {"body": text})
        return str(made.get("html_url", "")) if isinstance(made, dict) else ""

    def _mine(self) -> dict[str, Any] | None:
        """Return our comment: it begins with the marker and was written by who we are. Anybody can write the marker."""
        me = ""
        for one in self._all():
            if not isinstance(one, dict) or not isinstance(one.get("id"), int):
                continue
            # GitHub keeps the line ends that it was sent; an edit in a browser makes them \r\n.
            if not str(one.get("body", "")).replace("\r\n", "\n").startswith(self.thread.head):
                continue
            me = me or self._login()
            if isinstance(one.get("user"), dict) and one["user"].get("login") == me:
                return one
        return None

    def _login(self) -> str:
        """Return whom this token writes as."""
        try:
            user = self._ask("GET", "/user")
        except GitHubRefused:
            return ACTIONS_BOT
        return str(user["login"]) if isinstance(user, dict) and user.get("login") else ACTIONS_BOT

    def _all(self) -> Iterator[Any]:
        for page in range(1, PAGES + 1):
            path = f"/repos/{self.thread.repository}/issues/{self.thread.number}/comments?per_page={PAGE}&page={page}"
            found = self._ask("GET", path)
            if not isinstance(found, list):
                raise GitHubRefused("GitHub's list of comments is no list", "see that GITHUB_API_URL is GitHub's")
            yield from found
            if len(found) < PAGE:
                return

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        import requests  # noqa: PLC0415 -- as in __init__

        try:
            answer = self.session.request(method, self.thread.api + path, json=body, timeout=TIMEOUT_S, allow_redirects=False)
        except requests.RequestException as error:
            raise _Later(f"{method}: {type(error).__name__}") from error
        if answer.status_code in (200, 201):
            try:
                return answer.json()
            except ValueError as error:
                raise _Later(f"{method}: an answer that is not JSON") from error
        raise self._refusal(method, answer)

    def _refusal(self, method: str, answer: "requests.Response") -> Exception:
        status = answer.status_code
        said = printable(_message(answer))
        limited = status == 429 or (
            status == 403
            and (
                "retry-after" in answer.headers
                or answer.headers.get("x-ratelimit-remaining") == "0"
                or "rate limit" in said.lower()
            )
        )
        if limited or status >= 500:
            return _Later(f"{method}: {status} {said}", _after(answer.headers))
        if status in (403, 404):
            return MayNot(
                f"the token may not comment on the pull request ({status} {said})",
                "add `permissions: {pull-requests: write}` to the calling job; a fork's pull request never has it",
            )
        return GitHubRefused(f"{method} of the pull request's comment: {status} {said}", "see that GITHUB_TOKEN is valid")


def _message(answer: "requests.Response") -> str:
    try:
        told = answer.json()
    except ValueError:
        return ""
    return str(told.get("message", "")) if isinstance(told, dict) else ""


def _after(headers: Mapping[str, str]) -> float | None:
    """Return how long to wait: Retry-After in seconds, else until the rate limit's reset; None when nothing is said."""
    told = headers.get("retry-after", "")
    if told.isdecimal():
        return float(told)
    reset = headers.get("x-ratelimit-reset", "")
    if headers.get("x-ratelimit-remaining") == "0" and reset.isdecimal():
        return max(1.0, float(reset) - time.time())
    return None
