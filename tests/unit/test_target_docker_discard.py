"""A daemon that cannot remove a failed container at once does not hide why the container failed."""

from typing import Any

import docker
import pytest
import requests

from torchrelay.targets.docker import containers
from torchrelay.targets.docker.containers import discard


class Stuck:
    """A fake container whose removal the daemon refuses at first, with these statuses."""

    name = "torchrelay-digits-1"

    def __init__(self, *refusals: int) -> None:
        self.refusals = list(refusals)
        self.attempts = 0

    def remove(self, **_: bool) -> None:
        """Refuse, or succeed."""
        self.attempts += 1
        if self.refusals:
            answer = requests.Response()
            answer.status_code = self.refusals.pop(0)
            raise docker.errors.APIError("tried to kill container, but did not receive an exit event", response=answer)


@pytest.mark.parametrize(
    ("refusals", "attempts", "warnings"),
    [((), 1, 0), ((500,), 2, 1), ((409, 500), 3, 2), ((500, 500, 500, 500), 3, 3), ((404,), 1, 0)],
)
def test_removal_is_retried_and_then_left_to_the_next_deploy(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, refusals: tuple[int, ...], attempts: int, warnings: int
) -> None:
    monkeypatch.setattr(containers, "pause", lambda _: None)
    container: Any = Stuck(*refusals)
    discard(container)
    assert container.attempts == attempts
    assert caplog.text.count("could not be removed") == warnings
