"""The gate: a model that does not answer as it must goes nowhere, and its author is told why in Python's words, not Java's."""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import docker
import pytest

from tests.container.relay.conftest import Live
from tests.container.relay.runs import (
    Cli,
    Outcome,
    deployed_containers,
    digits,
    edit,
    own_handler,
    repositories,
    scratch_containers,
    verdict,
)

AT_ONCE = 2


@dataclass(frozen=True)
class Case:
    """A model that must be refused: how it is made, and what its verdict says."""

    make: Callable[[Path, str], None]
    reason: str
    traceback: str
    fix: str


def handler(case: str, **settings: str) -> Callable[[Path, str], None]:
    def make(folder: Path, name: str) -> None:
        own_handler(folder, case, name, 8080, **settings)

    return make


def wrong_expectation(folder: Path, name: str) -> None:
    sample = digits(folder, name, 8080) / "samples/seven.json"
    document = json.loads(sample.read_text())
    document["expect"]["json"]["class"] = "4"
    sample.write_text(json.dumps(document))


def wrong_shape(folder: Path, name: str) -> None:
    edit(digits(folder, name, 8080) / "model.yaml", "width: 16", "width: 8")


def truncated_weights(folder: Path, name: str) -> None:
    weights = digits(folder, name, 8080) / "model.pt"
    weights.write_bytes(weights.read_bytes()[:30_000])


def over_budget(folder: Path, name: str) -> None:
    sample = digits(folder, name, 8080) / "samples/seven.json"
    sample.write_text(json.dumps(json.loads(sample.read_text()) | {"latency_ms": 0.01}))


LOADS = "does not load: "
CASES = {
    "never_gets_ready": Case(
        handler("never_gets_ready", timeouts="{startup_s: 5}"), "longer than timeouts.startup_s", "", "raise timeouts.startup_s"
    ),
    "needs_more_memory": Case(handler("needs_more_memory"), "killed for memory: the limit is 1Gi", "", "raise resources.memory"),
    "raises_at_load": Case(handler("raises_at_load"), LOADS + "RuntimeError: no network of width 16", "in init_function", ""),
    "raises_at_predict": Case(
        handler("raises_at_predict"), "loads but does not answer", "LookupError: nothing can be looked up", ""
    ),
    "misses_a_package": Case(
        handler("misses_a_package"),
        LOADS + "ModuleNotFoundError: No module named 'a_package_that_is_not_there'",
        "import a_package_that_is_not_there",
        "add the package that provides a_package_that_is_not_there to requirements.txt",
    ),
    "reaches_for_the_network": Case(
        handler("reaches_for_the_network"), LOADS + "urllib.error.URLError", "urlopen", "put what it needs into extra_files"
    ),
    "writes_outside_of_tmp": Case(
        handler("writes_outside_of_tmp"), LOADS + "OSError: [Errno 30] Read-only", "cache.bin", "write to /tmp instead of"
    ),
    "wrong_shape": Case(wrong_shape, "model.pt does not fit the network", "[16] in the file, [8] in the network", "init_args"),
    "truncated_weights": Case(truncated_weights, "model.pt is a damaged file", "WeightsError", "write or upload them again"),
    "wrong_expectation": Case(wrong_expectation, "seven:", "", "compare the answers in verdict.json"),
    "over_budget": Case(over_budget, "seven:", "", "compare the answers in verdict.json"),
}


@dataclass(frozen=True)
class Judged:
    """A case after its run."""

    name: str
    folder: Path
    run: Future[Outcome]


@pytest.fixture(scope="module")
def judged(
    cli: Cli, registry_host: str, tmp_path_factory: pytest.TempPathFactory, client: docker.DockerClient
) -> Iterator[dict[str, Judged]]:
    """All cases, on their way two at a time from the first test on."""
    top = tmp_path_factory.mktemp("gate")
    made: dict[str, Judged] = {}
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for case, told in CASES.items():
            name = f"relay-gate-{secrets.token_hex(3)}"
            told.make(top / case, name)
            arguments: list[str | Path] = ["relay", top / case, "--target", "docker", "--repository", f"{registry_host}/gate/"]
            made[case] = Judged(name, top / case, pool.submit(cli, *arguments))
        yield made
        for judged in made.values():
            judged.run.cancel()
    for judged in made.values():
        for image in client.images.list(name=f"torchrelay/{judged.name}"):
            client.images.remove(str(image.id), force=True)
    shutil.rmtree(top)


@pytest.mark.parametrize("case", CASES)
def test_what_does_not_answer_right_goes_nowhere(
    judged: dict[str, Judged], case: str, client: docker.DockerClient, registry_host: str
) -> None:
    found, wanted = judged[case], CASES[case]
    error = found.run.result(timeout=280).refused(20, wanted.reason, wanted.fix)
    written = verdict(found.folder)
    assert written["result"] == "gate_failed"
    assert wanted.reason in written["reason"]
    assert wanted.traceback in written["traceback"]
    assert wanted.fix in (written["fix"] or error)
    if wanted.traceback:
        assert written["traceback"].startswith("Traceback (most recent call last):")
        assert wanted.traceback in error
        assert "org.pytorch.serve" not in written["traceback"]
    assert f"gate/{found.name}" not in repositories(registry_host)
    assert deployed_containers(client, found.name) == {}
    assert scratch_containers(client, found.folder) == []


def test_a_bad_version_leaves_the_one_that_serves_alone(live: Live, model: Path, cli: Cli, client: docker.DockerClient) -> None:
    before = deployed_containers(client, live.name)
    shutil.copyfile(model / "samples/seven.json", model / "samples/wrong.json")
    edit(model / "samples/wrong.json", '"7"', '"4"')
    cli("relay", model, *live.options).refused(20, "wrong")
    assert deployed_containers(client, live.name) == before
    assert cli("invoke", model, "--target", "docker", "--sample", "seven", "--json").result["body"]["class"] == "7"
    (model / "samples/wrong.json").unlink()
    again = cli("relay", model, *live.options)
    assert again.stage("deploy")["skipped"]
    assert again.result["image"] == live.first.result["image"]
