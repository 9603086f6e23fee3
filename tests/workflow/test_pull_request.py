"""A pull request is built, verified, compared with what is live and commented on; it changes nothing."""

from __future__ import annotations

import pytest

from tests.workflow.act import Act, Run
from tests.workflow.conftest import Deployed
from tests.workflow.repositories import ModelRepository, branched
from tests.workflow.services import READ_ONLY, TOKEN, Comments

MARKER = "<!-- torchrelay -->"
NUMBER = 41


@pytest.fixture(scope="module")
def proposal(deployed: Deployed) -> ModelRepository:
    """A branch whose model is half as certain, as its samples now expect."""
    repository = branched(deployed.repository, "warmer")
    repository.edit("model.py", "self.fc(x), dim=-1", "self.fc(x) * 0.5, dim=-1")
    repository.edit("samples/setosa.json", "0.9944", "0.9301")
    repository.edit("samples/setosa.json", "0.0056", "0.0699")
    repository.call({"live-url": f"http://127.0.0.1:{deployed.live.port}"})
    repository.commit("half as sure")
    return repository


@pytest.fixture(scope="module")
def proposed(deployed: Deployed, proposal: ModelRepository, act: Act, comments: Comments) -> tuple[Run, dict[str, object]]:
    """The run, and the live state before it; there are 35 earlier comments, one of them with our marker."""
    for number in range(34):
        comments.add(NUMBER, f"opinion {number}")
    comments.add(NUMBER, f"I write {MARKER} myself")
    before = deployed.live.world
    payload = proposal.proposed(deployed.repository.head, NUMBER, "warmer")
    return act(proposal.folder, "pull_request", payload, secrets={"GITHUB_TOKEN": TOKEN}), before


def test_it_is_built_and_touches_nothing(deployed: Deployed, proposed: tuple[Run, dict[str, object]]) -> None:
    run, before = proposed
    assert run.code == 0, run.transcript
    run.ran(plan="success", build="success", report="success")
    assert run.workflow_outputs["verdict"] == "passed", run.transcript
    assert run.workflow_outputs["endpoint"] == run.workflow_outputs["image"] == ""
    assert deployed.live.world == before


def test_it_says_how_answers_differ(deployed: Deployed, proposed: tuple[Run, dict[str, object]], comments: Comments) -> None:
    run, _ = proposed
    (comment,) = [body for body in comments.on(NUMBER) if body.startswith(MARKER) or body.rstrip().endswith(MARKER)]
    assert deployed.live.name in comment, comment
    assert "setosa" in comment, comment
    assert "0.99" in comment, comment
    assert "0.93" in comment, comment
    assert "setosa" in run.summary("build")


def test_the_comment_is_updated_in_place(
    deployed: Deployed, proposal: ModelRepository, proposed: tuple[Run, dict[str, object]], act: Act, comments: Comments
) -> None:
    before = comments.on(NUMBER)
    assert proposed[0].code == 0
    proposal.edit("model.py", "* 0.5", "* 0.500001")
    proposal.commit("hardly surer")
    payload = proposal.proposed(deployed.repository.head, NUMBER, "warmer")
    run = act(proposal.folder, "pull_request", payload, secrets={"GITHUB_TOKEN": TOKEN})
    assert run.code == 0, run.transcript
    after = comments.on(NUMBER)
    assert len(after) == len(before)
    assert [n for n, (old, new) in enumerate(zip(before, after, strict=True)) if old != new] == [35]


def test_a_fork_gets_a_notice_instead(deployed: Deployed, proposal: ModelRepository, act: Act, comments: Comments) -> None:
    """GitHub gives a fork's run a token that only reads: the run passes, and changes nothing."""
    before, comments_before = deployed.live.world, list(comments.comments)
    payload = proposal.proposed(deployed.repository.head, NUMBER, "warmer", fork="stranger/models")
    run = act(proposal.folder, "pull_request", payload, secrets={"GITHUB_TOKEN": READ_ONLY})
    assert run.code == 0, run.transcript
    run.ran(plan="success", build="success", report="success")
    assert [one for one in run.annotations if one.level == "notice" and one.job == "report"], run.transcript
    assert comments.comments == comments_before
    assert deployed.live.world == before


def test_pull_request_target_is_refused(deployed: Deployed, proposal: ModelRepository, act: Act) -> None:
    payload = proposal.proposed(deployed.repository.head, NUMBER, "warmer", fork="stranger/models")
    run = act(proposal.folder, "pull_request_target", payload, secrets={"GITHUB_TOKEN": TOKEN})
    assert run.code == 1
    assert run.results["plan"] == "failure"
    assert "build" not in {job.id for job in run.jobs if job.result != "skipped"}, run.transcript
    assert any("pull_request_target" in one.message for one in run.annotations), run.transcript
