"""An older commit never replaces a newer one if the two can be compared."""

import pytest

from torchrelay.core.errors import Outdated
from torchrelay.model.origin import Origin
from torchrelay.targets.contract import require_newer

LIVE = Origin("acme/models", "b" * 40, "refs/heads/main", 7, "https://example.org/runs/7", "ann")


def of(sequence: int, repository: str = "acme/models", ref: str = "refs/heads/main") -> Origin:
    return Origin(repository, "a" * 40, ref, sequence)


@pytest.mark.parametrize("sequence", [1, 6])
def test_an_older_commit_is_refused(sequence: int) -> None:
    with pytest.raises(Outdated, match=rf"newer commit \(b{{12}}, #7\); refusing to deploy a{{12}} \(#{sequence}\)") as caught:
        require_newer(of(sequence), LIVE, "digits")
    assert "torchrelay rollback" in caught.value.fix


@pytest.mark.parametrize(
    "release",
    [of(7), of(8), of(0), of(3, repository="acme/other"), of(3, ref="refs/heads/fix"), Origin()],
    ids=["same", "newer", "unknown", "another repository", "another branch", "nothing known"],
)
def test_every_other_commit_can_be_deployed(release: Origin) -> None:
    require_newer(release, LIVE, "digits")


def test_an_unknown_live_commit_does_not_stop_a_deployment() -> None:
    require_newer(of(1), Origin(), "digits")


@pytest.mark.parametrize("ref", ["", "refs/tags/v1"])
def test_a_tag_is_compared_as_its_commit(ref: str) -> None:
    with pytest.raises(Outdated):
        require_newer(of(3, ref=ref), LIVE, "digits")


def test_facts_come_back_from_labels() -> None:
    assert Origin.of_facts(LIVE.facts()) == LIVE
    assert Origin().facts() == {}


@pytest.mark.parametrize("count", ["", "-3", "1e9", "\uff17", "9" * 5000, "x"])
def test_a_count_that_is_none_is_unknown(count: str) -> None:
    assert Origin.of_facts({"sequence": count}).sequence == 0
