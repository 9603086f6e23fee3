"""The comment on the pull request is found and updated, never another user's. Runs against tests/integration/github_server.py."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import messages
from tests.errors import fails
from tests.integration.github_server import BOT, GitHub, serving
from torchrelay.core.errors import GitHubRefused
from torchrelay.workflow import comment
from torchrelay.workflow.comment import CommentForbidden, Comments, PullRequest, pull_request_of


@pytest.fixture
def hub() -> Iterator[GitHub]:
    with serving() as server:
        yield server


def pull_request(hub: GitHub, **more: Any) -> PullRequest:
    facts: dict[str, Any] = {
        "api": hub.url,
        "repository": "org/models",
        "number": 7,
        "token": hub.token,
        "workflow": "org/models/.github/d.yml",
        "run": 5,
    }
    return PullRequest(**(facts | more))


class Clock:
    """A fake clock: time passes only in waits."""

    def __init__(self) -> None:
        self.now, self.waits = 0.0, list[float]()

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds


def put(hub: GitHub, body: str, clock: Clock | None = None, **more: Any) -> str:
    used = clock or Clock()
    return Comments(pull_request(hub, **more), clock=used, sleep=used.sleep).put(body)


def test_the_first_run_creates_it_and_the_next_updates_it(hub: GitHub) -> None:
    hub.add("a person's words", "person")
    where = put(hub, "first")
    assert where == f"{hub.url}/c/1"
    assert put(hub, "second", run=6) == where
    assert [one["body"].splitlines()[-1] for one in hub.comments] == ["a person's words", "second"]
    assert hub.comments[1]["body"].startswith("<!-- torchrelay -->\n")


def test_it_is_found_on_a_later_page(hub: GitHub) -> None:
    for number in range(250):
        hub.add(f"word {number}", "person")
    put(hub, "first")
    for number in range(60):
        hub.add(f"more {number}", "person")
    put(hub, "second")
    assert sum(one["body"].startswith(comment.MARKER) for one in hub.comments) == 1
    assert hub.comments[250]["body"].endswith("second")
    assert [path.partition("page=")[2].partition("=")[2] for method, path in hub.asked if "comments?" in path][-3:] == [
        "1",
        "2",
        "3",
    ]


def test_another_users_comment_with_the_marker_is_not_changed(hub: GitHub) -> None:
    theirs = hub.add(pull_request(hub).head + "<!-- run 999999 -->\nlies", "mallory")
    put(hub, "truth")
    assert theirs["body"].endswith("lies")
    assert [one["user"]["login"] for one in hub.comments] == ["mallory", BOT]
    put(hub, "more truth")
    assert len(hub.comments) == 2


def test_control_without_the_author_check_it_is_changed(hub: GitHub, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = hub.add(pull_request(hub).head + "lies", "mallory")
    monkeypatch.setattr(Comments, "_login", lambda _: "mallory")
    put(hub, "truth")
    assert theirs["body"].endswith("truth")


def test_the_marker_counts_only_at_the_start(hub: GitHub) -> None:
    hub.add(f"another workflow quotes a title: {pull_request(hub).head}", BOT)
    put(hub, "our report")
    assert len(hub.comments) == 2


def test_a_personal_token_finds_its_own_comment(hub: GitHub) -> None:
    hub.login = "person"
    hub.add(pull_request(hub).head + "the workflow's", BOT)
    put(hub, "first")
    put(hub, "second")
    assert [one["body"].splitlines()[-1] for one in hub.comments] == ["the workflow's", "second"]


def test_each_workflow_has_its_own_comment(hub: GitHub) -> None:
    put(hub, "one", workflow="a.yml")
    put(hub, "two", workflow="b.yml")
    put(hub, "one again", workflow="a.yml")
    assert [one["body"].splitlines()[-1] for one in hub.comments] == ["one again", "two"]


def test_an_older_run_does_not_overwrite_a_newer_one(hub: GitHub) -> None:
    put(hub, "newer", run=9)
    assert put(hub, "older", run=8) == ""
    assert hub.comments[0]["body"].endswith("newer")
    put(hub, "newer, once more", run=9)
    assert hub.comments[0]["body"].endswith("once more")


def test_a_comment_edited_in_a_browser_is_found(hub: GitHub) -> None:
    put(hub, "first")
    hub.comments[0]["body"] = hub.comments[0]["body"].replace("\n", "\r\n")
    put(hub, "second")
    assert len(hub.comments) == 1


def test_a_lost_response_does_not_create_a_second_comment(hub: GitHub) -> None:
    hub.lose_answers = 1
    clock = Clock()
    put(hub, "once", clock)
    assert len(hub.comments) == 1
    assert clock.waits


LIMITED = (403, {"retry-after": "7"}, {"message": "You have exceeded a secondary rate limit"})


@pytest.mark.parametrize(
    ("answers", "waits"),
    [
        ([(500, {}, {})], [1.0]),
        ([(502, {}, {}), (503, {}, {})], [1.0, 2.0]),
        ([LIMITED], [7.0]),
        ([(429, {"retry-after": "3"}, {})], [3.0]),
        ([(403, {}, {"message": "API rate limit exceeded"})], [1.0]),
    ],
    ids=["500", "502 503", "secondary limit", "429", "limit in words"],
)
def test_temporary_failures_are_retried(answers: list[Any], waits: list[float], hub: GitHub) -> None:
    hub.next = list(answers)
    clock = Clock()
    put(hub, "body", clock)
    assert len(hub.comments) == 1
    assert len(clock.waits) == len(waits)
    assert all(0.75 * wait <= waited <= 1.25 * wait for wait, waited in zip(waits, clock.waits, strict=True)), clock.waits


@pytest.mark.parametrize("answer", [(500, {}, {}), (403, {"retry-after": "3600"}, {})], ids=["500", "an hour"])
def test_there_is_a_deadline(answer: Any, hub: GitHub) -> None:
    hub.next = [answer] * 1000
    clock = Clock()
    with fails(GitHubRefused, words=messages.COMMENT_NOT_WRITTEN):
        put(hub, "body", clock)
    assert clock.now <= comment.DEADLINE_S
    assert hub.comments == []


@pytest.mark.parametrize("status", [403, 404])
def test_a_token_without_permission_gets_the_fix(status: int, hub: GitHub) -> None:
    hub.next = [(200, {}, []), (status, {}, {"message": "Resource not accessible by integration"})]
    with pytest.raises(CommentForbidden) as caught:
        put(hub, "body")
    assert "pull-requests: write" in caught.value.fix
    assert len(hub.asked) == 2


def test_the_token_is_in_no_message(hub: GitHub, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("torchrelay"), "propagate", True)
    caplog.set_level(logging.DEBUG)
    refusals: list[Any] = [(401, {}, {"message": "Bad credentials"}), (422, {}, {"message": "no"})]
    for answer in refusals:
        hub.next = [answer]
        with pytest.raises(GitHubRefused) as caught:
            put(hub, "body")
        assert hub.token not in str(caught.value)
    hub.next = [(500, {}, {})]
    put(hub, "body")
    with pytest.raises(GitHubRefused):
        put(hub, "body", api="http://127.0.0.1:9")
    assert hub.token not in caplog.text


def test_the_token_is_not_sent_to_a_redirect(hub: GitHub) -> None:
    with serving() as other:
        hub.next = [(302, {"Location": f"{other.url}/repos"}, {})]
        with pytest.raises(GitHubRefused):
            put(hub, "body")
        assert other.asked == []


# what the environment says


def environment(folder: Path, event: Any, **more: str) -> dict[str, str]:
    (folder / "event.json").write_text(event if isinstance(event, str) else json.dumps(event))
    facts = {
        "GITHUB_EVENT_PATH": str(folder / "event.json"),
        "GITHUB_TOKEN": "t",
        "GITHUB_REPOSITORY": "org/models",
        "GITHUB_RUN_NUMBER": "12",
    }
    return facts | more


PULL = {"pull_request": {"number": 7}}


def test_the_pull_request_comes_from_the_event(tmp_path: Path) -> None:
    ref = "org/models/.github/workflows/deploy.yml@refs/pull/7/merge"
    pull = pull_request_of(environment(tmp_path, PULL, GITHUB_WORKFLOW_REF=ref, GITHUB_API_URL="https://ghe.example/api/v3/"))
    assert pull == PullRequest("https://ghe.example/api/v3", "org/models", 7, "t", "org/models/.github/workflows/deploy.yml", 12)


@pytest.mark.parametrize(
    "event", ["", "[", "[]", {}, {"pull_request": None}, {"pull_request": {"number": "7/../8"}}, {"pull_request": {"number": 0}}]
)
def test_without_a_pull_request_there_is_nothing_to_do(event: Any, tmp_path: Path) -> None:
    assert pull_request_of(environment(tmp_path, event)) is None


def test_without_a_token_there_is_nothing_to_do(tmp_path: Path) -> None:
    assert pull_request_of(environment(tmp_path, PULL, GITHUB_TOKEN="")) is None
    assert pull_request_of({}) is None


@pytest.mark.parametrize("repository", ["", "org", "org/models/../x", "org/..", "org/mo dels", "org/models?x=1", "a/b\n"])
def test_a_repository_is_owner_and_name(repository: str, tmp_path: Path) -> None:
    with pytest.raises(GitHubRefused):
        pull_request_of(environment(tmp_path, PULL, GITHUB_REPOSITORY=repository))


@pytest.mark.parametrize("api", ["http://api.example", "ftp://127.0.0.1", "api.github.com"])
def test_the_token_is_not_sent_without_tls(api: str, tmp_path: Path) -> None:
    with fails(GitHubRefused, "TLS"):
        pull_request_of(environment(tmp_path, PULL, GITHUB_API_URL=api))
