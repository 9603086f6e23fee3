"""The event that started a workflow's run, and the commit that it makes a checkout comparable with."""

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torchrelay.core.errors import InputsInvalid
from torchrelay.core.text import shown
from torchrelay.workflow.checkout import ZEROS, Checkout

_COMMIT = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")


@dataclass(frozen=True)
class Event:
    """What GitHub says of the run: the event's name, the ref it is for, the workflow that called, and the event's payload."""

    name: str = ""
    ref: str = ""
    workflow: str = ""
    payload: Mapping[str, Any] = field(default_factory=dict)

    @staticmethod
    def of(environment: Mapping[str, str]) -> "Event":
        """Read GitHub's variables and the event's file; a file that is missing or damaged tells nothing."""
        payload: Any = None
        with suppress(KeyError, OSError, ValueError, RecursionError):
            payload = json.loads(Path(environment["GITHUB_EVENT_PATH"]).read_bytes())
        workflow = environment.get("GITHUB_WORKFLOW_REF", "").partition("@")[0].split("/", 2)
        return Event(
            environment.get("GITHUB_EVENT_NAME", ""),
            environment.get("GITHUB_REF", ""),
            workflow[2] if len(workflow) == 3 else "",
            payload if isinstance(payload, dict) else {},
        )

    def told(self, *path: str) -> str:
        """Return a text of the payload, "" when there is none at that path."""
        value: Any = self.payload
        for key in path:
            value = value.get(key) if isinstance(value, dict) else None
        return value if isinstance(value, str) else ""

    @property
    def on_default_branch(self) -> bool:
        """Whether the ref is the repository's default branch; where nobody says which that is, main or master."""
        default = self.told("repository", "default_branch")
        return self.ref in ([f"refs/heads/{default}"] if default else ["refs/heads/main", "refs/heads/master"])

    @property
    def from_fork(self) -> bool:
        """Whether it is about a pull request that is not known to be out of this repository: it gets no credentials.

        Reviews and their comments are such events too, whatever their names; the fork may be gone.
        """
        head, base = (self.told("pull_request", side, "repo", "full_name") for side in ("head", "base"))
        return (self.name == "pull_request" or "pull_request" in self.payload) and (not head or head != base)

    @property
    def in_public(self) -> bool:
        """Whether GitHub says that anybody may read the repository, and with it the artifacts of its runs."""
        repository = self.payload.get("repository")
        return isinstance(repository, dict) and repository.get("private") is False


@dataclass(frozen=True)
class Baseline:
    """What to compare with: a commit; or every model counts as changed, or none does. `why` says so in words."""

    why: str
    commit: str = ""
    none: bool = False


def baseline(checkout: Checkout, event: Event, base_ref: str = "") -> Baseline:
    """Return what a run compares its checkout with; `base_ref` is what somebody names outright.

    Raises InputsInvalid when that is not there.
    """
    if checkout.top is None:
        return Baseline("this is no git repository")
    if base_ref:
        base = checkout.commit(base_ref)
        before = checkout.fork_point(base) if base else None
        if before is None:
            raise InputsInvalid(f"base-ref: {shown(base_ref)} has no commit in common with HEAD here", "fetch it first")
        return Baseline(f"changed since {before[:12]}", before)
    if event.name == "push":
        return _of_push(checkout, event)
    if event.name == "pull_request":
        return _of_branch(checkout, event.told("pull_request", "base", "sha"))
    if event.name == "merge_group":
        return _of_branch(checkout, event.told("merge_group", "base_sha"))
    return Baseline(f"all that were named, on {event.name}" if event.name else "all that were named")


def _of_push(checkout: Checkout, event: Event) -> Baseline:
    before = event.told("before")
    if event.payload.get("deleted") is True:
        return Baseline("the branch was deleted", none=True)
    if event.payload.get("forced") is True:
        return Baseline("the push was forced")
    if ZEROS.fullmatch(before):
        return Baseline("the first push of this branch")
    return _since(checkout, _known(checkout, before))


def _of_branch(checkout: Checkout, base: str) -> Baseline:
    known = _known(checkout, base)
    return _since(checkout, known and checkout.fork_point(known))


def _known(checkout: Checkout, commit: str) -> str | None:
    return checkout.commit(commit) if _COMMIT.fullmatch(commit) else None


def _since(checkout: Checkout, commit: str | None) -> Baseline:
    if commit:
        return Baseline(f"changed since {commit[:12]}", commit)
    cut = "; the clone is shallow: give actions/checkout `fetch-depth: 0`" if checkout.shallow() else ""
    return Baseline(f"the commit before is unknown here{cut}")
