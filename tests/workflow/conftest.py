"""act, its repositories, and what its runs reach: a real registry, a real Docker daemon, stand-ins of GitHub's services."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
import pytest
import requests

from tests.cache import CACHE
from tests.container.base_image import ensure_base_image
from tests.container.conftest import client, runtime
from tests.container.relay.runs import removed_afterwards
from tests.integration.conftest import free_port, registry_host
from tests.workflow.act import Act, Run, installed
from tests.workflow.repositories import OWN, ModelRepository, export, local_repositories
from tests.workflow.services import Comments, github_api
from torchrelay.core.paths import cache_dir

__all__ = ["client", "registry_host", "runtime"]


@dataclass(frozen=True)
class Live:
    """A model of a test, and what of it can be seen from outside."""

    name: str
    port: int
    registry: str
    client: docker.DockerClient

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/predictions/{self.name}"

    def ask(self) -> Any:
        """The answer to an iris setosa: probabilities of the three kinds."""
        answer = requests.post(self.url, json=[5.1, 3.5, 1.4, 0.2], timeout=20)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def answers(self) -> bool:
        try:
            return requests.get(f"http://127.0.0.1:{self.port}/ping", timeout=2).status_code == 200
        except requests.ConnectionError:
            return False

    @property
    def containers(self) -> dict[str, tuple[str, str]]:
        """Name -> id and state of all that the docker target made."""
        found = self.client.containers.list(all=True, filters={"label": f"org.torchrelay.name={self.name}"}, ignore_removed=True)
        return {str(one.name): (str(one.id), str(one.status)) for one in found}

    @property
    def serving(self) -> dict[str, str]:
        """The labels of the container that is live: the only running one that is not the front."""
        found = self.client.containers.list(filters={"label": f"org.torchrelay.name={self.name}"}, ignore_removed=True)
        (live,) = [one for one in found if not str(one.name).endswith("-front")]
        return dict(live.labels)

    @property
    def tags(self) -> list[str]:
        """What the registry has of it."""
        listed = requests.get(f"http://{self.registry}/v2/models/{self.name}/tags/list", timeout=5)
        return sorted(listed.json().get("tags") or []) if listed.ok else []

    @property
    def world(self) -> dict[str, Any]:
        """All that a run which may touch nothing must leave as it is."""
        return {"containers": self.containers, "tags": self.tags}

    def clear(self) -> None:
        """Take away what the docker target made."""
        with removed_afterwards(self.client, self.name):
            pass


Scene = tuple[ModelRepository, Live]


@pytest.fixture(scope="session")
def deploy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This repository as act gets it under the name org/deploy."""
    return export(tmp_path_factory.mktemp("deploy") / "deploy")


@pytest.fixture(scope="session")
def comments() -> Iterator[Comments]:
    with github_api() as serving:
        yield serving


def step_environment(folder: Path, api: str) -> dict[str, str]:
    """What the steps of every run see, beside what act and the workflows set: no more of this machine's than that."""
    python = Path(sys.base_prefix) / "bin"
    given = {
        "PATH": f"{python}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "TORCHRELAY_BASE_IMAGE": os.environ.get("TORCHRELAY_BASE_IMAGE") or ensure_base_image(),
        "TORCHRELAY_WHEELS": os.environ.get("TORCHRELAY_WHEELS", ""),
        "TORCHRELAY_CACHE": str(cache_dir()),
        "ACT_ARTIFACTS": str(folder / "artifacts"),
        "ACT_CACHE": str(folder / "cache"),
        "GITHUB_API_URL": api,
    }
    passed_on = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_CERT", "SSL_CERT_FILE", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY")
    return given | {name: os.environ[name] for name in passed_on if os.environ.get(name)}


@pytest.fixture(scope="session")
def environment(runtime: str, tmp_path_factory: pytest.TempPathFactory, comments: Comments) -> dict[str, str]:  # noqa: ARG001 -- built first
    return step_environment(tmp_path_factory.mktemp("services"), comments.url)


def make_act(deploy: Path, folder: Path, environment: dict[str, str], own: str = OWN) -> Act:
    """Return an act that knows this deploy repository and a stand-in for every action that it uses."""
    flags = {*local_repositories([deploy], {own: deploy}), f"--local-repository {own}@main={deploy}"}
    tools = CACHE / "tool_cache"
    tools.mkdir(parents=True, exist_ok=True)
    return Act(installed(), folder, sorted(flags), environment, tools)


@pytest.fixture(scope="session")
def start_act(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Act]]:
    """Make an act that knows this deploy repository, and end its runs."""
    with ExitStack() as stack:

        def start(deploy: Path, own: str = OWN) -> Act:
            made = make_act(deploy, tmp_path_factory.mktemp("act"), environment, own)
            stack.callback(made.end_all)
            return made

        yield start


@pytest.fixture(scope="session")
def act(start_act: Callable[..., Act], deploy: Path) -> Act:
    return start_act(deploy)


@pytest.fixture(scope="session")
def scene(
    client: docker.DockerClient, registry_host: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Scene]]:
    """Make a model repository with one model, of a name and a port of its own, and take away what becomes of it."""
    with ExitStack() as stack:

        def make(own: str = OWN, **given: Any) -> Scene:
            live = Live(f"wf-{secrets.token_hex(3)}", free_port(), registry_host, client)
            stack.enter_context(removed_afterwards(client, live.name))
            repository = ModelRepository(
                tmp_path_factory.mktemp("models") / "models",
                {"repository": f"{registry_host}/models/", "target": "docker", **given},
                own,
            )
            repository.add_model(live.name, live.port)
            repository.commit("a model")
            return repository, live

        yield make


@dataclass(frozen=True)
class Deployed:
    """A model that was pushed and is live, and the run that did it; tests leave it as it is."""

    repository: ModelRepository
    live: Live
    run: Run


@pytest.fixture(scope="session")
def deployed(act: Act, scene: Callable[..., Scene]) -> Deployed:
    repository, live = scene()
    return Deployed(repository, live, act(repository.folder, "push", repository.pushed()))
