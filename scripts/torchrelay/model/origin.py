"""The origin of a version: its commit and the run that built it; stored on deployed objects as annotations."""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from torchrelay.core.git import run_git
from torchrelay.model.version import Git


@dataclass(frozen=True)
class Origin:
    """`sequence` counts the commits that lead to `commit`: of two on one branch the larger is the newer; 0 when it is unknown."""

    repository: str = ""
    commit: str = ""
    ref: str = ""
    sequence: int = 0
    run: str = ""
    actor: str = ""

    def facts(self) -> dict[str, str]:
        """Return the known fields as text, for labels and annotations."""
        return {key: str(value) for key, value in asdict(self).items() if value}

    @staticmethod
    def of_facts(facts: Mapping[str, str]) -> "Origin":
        """Parse the text that `facts` returned; a missing field or an invalid number is unknown."""
        count = facts.get("sequence", "")
        texts = {key: facts.get(key, "") for key in ("repository", "commit", "ref", "run", "actor")}
        return Origin(**texts, sequence=int(count) if count.isdecimal() and count.isascii() and len(count) < 10 else 0)


def origin_of(model_dir: Path, environment: Mapping[str, str] = os.environ, git: Git = run_git) -> Origin:
    """Return the origin according to git and, in a workflow, GitHub's variables.

    A shallow clone has no comparable count: its sequence is 0.
    """
    commit = git(["rev-parse", "--verify", "HEAD"], model_dir)
    if commit.returncode != 0:
        return Origin()
    shallow = git(["rev-parse", "--is-shallow-repository"], model_dir).stdout.strip() == "true"
    count = git(["rev-list", "--count", "HEAD"], model_dir).stdout.strip()
    repository, run = environment.get("GITHUB_REPOSITORY", ""), environment.get("GITHUB_RUN_ID", "")
    server = environment.get("GITHUB_SERVER_URL", "")
    return Origin(
        repository=repository,
        commit=commit.stdout.strip(),
        ref=environment.get("GITHUB_REF", ""),
        sequence=int(count) if count.isdigit() and not shallow else 0,
        run=f"{server}/{repository}/actions/runs/{run}" if run else "",
        actor=environment.get("GITHUB_ACTOR", ""),
    )
