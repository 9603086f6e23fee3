"""Two pushes five seconds apart, without concurrency groups (act has none): the newest commit is live at the end."""

from __future__ import annotations

import time
from collections.abc import Callable

from tests.workflow.act import Act
from tests.workflow.conftest import Scene
from tests.workflow.repositories import branched

APART_S = 5.0


def test_the_newest_commit_is_live(act: Act, scene: Callable[..., Scene]) -> None:
    repository, live = scene()
    first = branched(repository, "main", "first")
    first.edit("model.py", '"""One linear', '"""First: one linear')
    first.commit("first")
    second = branched(first, "main", "second")
    second.edit("model.py", '"""First: one linear', '"""Second: one linear')
    second.commit("second")
    older = act.start(first.folder, "push", first.pushed(repository.head))
    time.sleep(APART_S)  # the pace of the scenario
    newer = act.start(second.folder, "push", second.pushed(first.head))
    ended_older, ended_newer = older.finish(), newer.finish()
    assert ended_newer.code == 0, ended_newer.transcript
    assert live.serving["org.torchrelay.commit"] == second.head, ended_older.transcript
    if ended_older.code:  # it came second, and was refused
        assert ended_older.outputs("report")["verdict"] == "failed", ended_older.transcript

    late = act(first.folder, "push", first.pushed(repository.head))
    assert late.code == 1
    assert late.results[f"deploy/{live.name}"] == "failure", late.transcript
    assert [one for one in late.annotations if one.title == "outdated"], late.transcript
    assert live.serving["org.torchrelay.commit"] == second.head
    assert live.ask()[0] > 0.99
