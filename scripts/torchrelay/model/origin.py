"""Where a version comes from: the commit it was made of and the run that made it; annotated on what is live."""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from torchrelay.core.git import run_git
from torchrelay.model.version import Git


@dataclass(frozen=True)
class Source:
    """`sequence` counts the commits that lead to `commit`: of two on one branch the larger is the newer; 0 when it is unknown."""

    repository: str = ""
    commit: str = ""
    ref: str = ""
    sequence: int = 0
    run: str = ""
    actor: str = ""

    def facts(self) -> dict[str, str]:
        """Return what is known, as text: for labels and annotations, under a prefix of the target's."""
        return {key: str(value) for key, value in asdict(self).items() if value}

    @staticmethod
    def of_facts(facts: Mapping[str, str]) -> "Source":
        """Read what `facts` gave, off a live object; what is missing or no number is unknown."""
        count = facts.get("sequence", "")
        texts = {key: facts.get(key, "") for key in ("repository", "commit", "ref", "run", "actor")}
        return Source(**texts, sequence=int(count) if count.isdecimal() and count.isascii() and len(count) < 10 else 0)


def source_of(model_dir: Path, environment: Mapping[str, str] = os.environ, git: Git = run_git) -> Source:
    """Read git and, in a workflow, what GitHub says of the run.

    A shallow clone has no count worth comparing: its sequence is 0.
    """
    commit = git(["rev-parse", "--verify", "HEAD"], model_dir)
    if commit.returncode != 0:
        return Source()
    shallow = git(["rev-parse", "--is-shallow-repository"], model_dir).stdout.strip() == "true"
    count = git(["rev-list", "--count", "HEAD"], model_dir).stdout.strip()
    repository, run = environment.get("GITHUB_REPOSITORY", ""), environment.get("GITHUB_RUN_ID", "")
    server = environment.get("GITHUB_SERVER_URL", "")
    return Source(
        repository=repository,
        commit=commit.stdout.strip(),
        ref=environment.get("GITHUB_REF", ""),
        sequence=int(count) if count.isdigit() and not shallow else 0,
        run=f"{server}/{repository}/actions/runs/{run}" if run else "",
        actor=environment.get("GITHUB_ACTOR", ""),
    )
