"""The docker target labels the live commit, and refuses to deploy an older one."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.container.test_target_docker import NAME, Deployment, deployment
from torchrelay.core.errors import Outdated
from torchrelay.model.origin import Source
from torchrelay.targets import Release

__all__ = ["deployment"]


def of(release: Release, sequence: int, repository: str = "acme/models") -> Release:
    source = Source(repository, f"{sequence:040x}", "refs/heads/main", sequence, "https://example.org/acme/models/runs/1", "ann")
    return replace(release, source=source)


def started(deployment: Deployment) -> dict[str, str]:
    """Id -> start of every container that the target made."""
    containers = deployment.factory.client.containers.list(all=True, filters={"label": f"org.torchrelay.name={NAME}"})
    return {str(one.id): str(one.attrs["State"]["StartedAt"]) for one in containers}


def labels(deployment: Deployment, release: Release) -> dict[str, str]:
    all_labels = dict(deployment.factory.client.containers.get(deployment.name(release)).labels)
    names = ("repository", "commit", "ref", "sequence", "run", "actor")
    return {key: all_labels[f"org.torchrelay.{key}"] for key in names if f"org.torchrelay.{key}" in all_labels}


def test_an_older_commit_is_refused_and_nothing_changes(deployment: Deployment) -> None:
    one, two = deployment.release("one"), deployment.release("two")
    assert deployment.target().apply(of(two, 7)).version == "two"
    assert labels(deployment, two) == {
        "repository": "acme/models",
        "commit": f"{7:040x}",
        "ref": "refs/heads/main",
        "sequence": "7",
        "run": "https://example.org/acme/models/runs/1",
        "actor": "ann",
    }
    before = started(deployment)
    with pytest.raises(Outdated, match=r"#7\); refusing to deploy 000000000000 \(#6\)"):
        deployment.target().apply(of(one, 6))
    assert started(deployment) == before
    assert deployment.answer() == "two"

    assert deployment.target().apply(of(two, 7)).skipped  # the same run again
    assert started(deployment) == before
    assert deployment.target().apply(of(one, 7)).version == "one"  # the same commit, built again
    assert deployment.target().apply(of(two, 3, repository="acme/others")).version == "two"  # counts of two histories


def test_a_newer_commit_of_the_same_image_gets_its_label(deployment: Deployment) -> None:
    """Otherwise the late run of a commit between the two would find the older one's label."""
    one, two = deployment.release("one"), deployment.release("two")
    deployment.target().apply(of(one, 3))
    assert not deployment.target().plan(of(one, 5)).unchanged
    again = deployment.target().apply(of(one, 5))
    assert (again.version, again.skipped) == ("one", False)
    assert labels(deployment, one)["sequence"] == "5"
    with pytest.raises(Outdated):
        deployment.target().apply(of(two, 4))
    assert deployment.answer() == "one"
    assert deployment.target().apply(one).skipped  # deployed by hand, outside of git: nothing to compare
