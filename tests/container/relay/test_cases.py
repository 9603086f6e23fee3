"""Every case of tests/container/cases: a model that must pass is verified; one that must not is refused, and goes nowhere."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import docker
import pytest

from tests.container.case import CASES, FILE, Case, read
from tests.container.relay.runs import Cli, Outcome, deployed_containers, repositories, scratch_containers, verdict

AT_ONCE = 2
NAMES = sorted(file.parent.name for file in CASES.glob(f"*/{FILE}"))


@dataclass(frozen=True)
class StartedCase:
    """A case whose run has been started, or is going to be."""

    case: Case
    name: str
    folder: Path
    run: Future[Outcome]


@pytest.fixture(scope="module")
def started(
    cli: Cli,
    registry_host: str,
    tmp_path_factory: pytest.TempPathFactory,
    client: docker.DockerClient,
    request: pytest.FixtureRequest,
) -> Iterator[dict[str, StartedCase]]:
    """All selected cases, run two at a time from the first test on."""
    tests = [item for item in request.session.items if isinstance(item, pytest.Function) and item.originalname == "test_a_case"]
    selected = [str(test.callspec.params["label"]) for test in tests]
    top = tmp_path_factory.mktemp("cases")
    cases: dict[str, StartedCase] = {}
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for label in selected:
            case, name, folder = read(CASES / label), f"case-{secrets.token_hex(3)}", top / label
            case.write(CASES / label, folder, name)
            to_registry: list[str | Path] = ["relay", folder, "--target", "docker", "--repository", f"{registry_host}/cases/"]
            arguments = ["verify", folder] if case.expect.verdict == "passed" else to_registry
            cases[label] = StartedCase(case, name, folder, pool.submit(cli, *arguments))
        yield cases
        for one in cases.values():
            one.run.cancel()
    for one in cases.values():
        for image in client.images.list(name=f"torchrelay/{one.name}"):
            client.images.remove(str(image.id), force=True)
    shutil.rmtree(top)


@pytest.mark.parametrize("label", NAMES)
def test_a_case(started: dict[str, StartedCase], label: str, client: docker.DockerClient, registry_host: str) -> None:
    one = started[label]
    expected, outcome = one.case.expect, one.run.result(timeout=280)
    if expected.verdict == "passed":
        assert outcome.code == 0, outcome.output
        assert verdict(one.folder)["result"] == "passed"
    else:
        error = outcome.refused(20, expected.reason, expected.fix)
        written = verdict(one.folder)
        assert written["result"] == expected.verdict
        assert expected.reason in written["reason"]
        assert expected.traceback in written["traceback"]
        assert expected.fix in (written["fix"] or error)
        if expected.traceback:
            assert written["traceback"].startswith("Traceback (most recent call last):")
            assert expected.traceback in error
            assert "org.pytorch.serve" not in written["traceback"]
    assert f"cases/{one.name}" not in repositories(registry_host)
    assert deployed_containers(client, one.name) == {}
    assert scratch_containers(client, one.folder) == []
