"""The event that started a workflow run, and the commit that the run compares its checkout with."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torchrelay.core.errors import InputsInvalid
from torchrelay.core.json_text import parse_untrusted
from torchrelay.core.text import shown
from torchrelay.workflow.checkout import COMMIT, NO_COMMIT, Checkout


@dataclass(frozen=True)
class Event:
    """What GitHub reports about the run: name of the event, git ref, path of the calling workflow, payload of the event."""

    name: str = ""
    ref: str = ""
    workflow: str = ""
    payload: Mapping[str, Any] = field(default_factory=dict)

    @staticmethod
    def of(environment: Mapping[str, str]) -> "Event":
        """Read GitHub's variables and its event file; a missing or damaged file counts as an empty payload."""
        payload: Any = None
        with suppress(KeyError, OSError, ValueError):
            payload = parse_untrusted(Path(environment["GITHUB_EVENT_PATH"]).read_bytes())
        workflow = environment.get("GITHUB_WORKFLOW_REF", "").partition("@")[0].split("/", 2)
        return Event(
            environment.get("GITHUB_EVENT_NAME", ""),
            environment.get("GITHUB_REF", ""),
            workflow[2] if len(workflow) == 3 else "",
            payload if isinstance(payload, dict) else {},
        )

    def text(self, *path: str) -> str:
        """Return the text at a path of the payload; "" if there is none."""
        value: Any = self.payload
        for key in path:
            value = value.get(key) if isinstance(value, dict) else None
        return value if isinstance(value, str) else ""

    @property
    def on_default_branch(self) -> bool:
        """Whether the ref is the repository's default branch; main or master if the payload does not name it."""
        default = self.text("repository", "default_branch")
        return self.ref in ([f"refs/heads/{default}"] if default else ["refs/heads/main", "refs/heads/master"])

    @property
    def from_fork(self) -> bool:
        """Whether the event is about a pull request that may come from a fork; such a run gets no credentials.

        Reviews and their comments are such events too, whatever the event's name. The fork may have been deleted.
        """
        head, base = (self.text("pull_request", side, "repo", "full_name") for side in ("head", "base"))
        return (self.name == "pull_request" or "pull_request" in self.payload) and (not head or head != base)

    @property
    def in_public(self) -> bool:
        """Whether the repository is public, so that anyone can download the artifacts of its runs."""
        repository = self.payload.get("repository")
        return isinstance(repository, dict) and repository.get("private") is False


@dataclass(frozen=True)
class Baseline:
    """The commit to compare with; without one, every model counts as changed, or no model if `none`. `reason` is shown to users."""

    reason: str
    commit: str = ""
    none: bool = False


def baseline(checkout: Checkout, event: Event, base_ref: str = "") -> Baseline:
    """Return what the run compares its checkout with; `base_ref` is the commit or branch that the user chose.

    Raises InputsInvalid if `base_ref` has no commit in common with HEAD.
    """
    if checkout.top is None:
        return Baseline("not a git repository")
    if base_ref:
        base = checkout.commit(base_ref)
        before = checkout.fork_point(base) if base else None
        if before is None:
            raise InputsInvalid(f"base-ref: {shown(base_ref)} has no commit in common with HEAD in this clone", "fetch it first")
        return Baseline(f"changed since {before[:12]}", before)
    if event.name == "push":
        return _of_push(checkout, event)
    if event.name == "pull_request":
        return _of_branch(checkout, event.text("pull_request", "base", "sha"))
    if event.name == "merge_group":
        return _of_branch(checkout, event.text("merge_group", "base_sha"))
    return Baseline(f"all selected models ({event.name})" if event.name else "all selected models")


def _of_push(checkout: Checkout, event: Event) -> Baseline:
    before = event.text("before")
    if event.payload.get("deleted") is True:
        return Baseline("the branch was deleted", none=True)
    if event.payload.get("forced") is True:
        return Baseline("it was a force push")
    if NO_COMMIT.fullmatch(before):
        return Baseline("the first push of this branch")
    return _since(checkout, _known(checkout, before))


def _of_branch(checkout: Checkout, base: str) -> Baseline:
    known = _known(checkout, base)
    return _since(checkout, known and checkout.fork_point(known))


def _known(checkout: Checkout, commit: str) -> str | None:
    return checkout.commit(commit) if COMMIT.fullmatch(commit) else None


def _since(checkout: Checkout, commit: str | None) -> Baseline:
    if commit:
        return Baseline(f"changed since {commit[:12]}", commit)
    shallow = "; it is shallow: set `fetch-depth: 0` for actions/checkout" if checkout.shallow() else ""
    return Baseline(f"the previous commit is not in this clone{shallow}")
