"""The same push with each job in a separate container, which is act's default."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import docker
import pytest

from tests.workflow.act import COMMAND, Act
from tests.workflow.conftest import Scene
from tests.workflow.runner_image import ensure_runner_image
from torchrelay.core.paths import cache_dir


@pytest.mark.timeout(400)
def test_a_push(act: Act, scene: Callable[..., Scene], client: docker.DockerClient) -> None:
    repository, live = scene()
    command = COMMAND.replace("-self-hosted", ensure_runner_image(client))
    shared = [str(cache_dir()), act.env["ACT_ARTIFACTS"], *filter(None, [os.environ.get("TORCHRELAY_WHEELS")])]
    Path(act.env["ACT_ARTIFACTS"]).mkdir(parents=True, exist_ok=True)
    options = " ".join(f"-v {folder}:{folder}" for folder in shared)
    arguments = ("--pull=false", "--container-options", options)
    run = act(repository.folder, "push", repository.pushed(), command=command, arguments=arguments, timeout=380)
    assert run.code == 0, run.transcript
    run.ran(plan="success", build="success", deploy="success", report="success")
    assert run.workflow_outputs["endpoint"] == live.url
    assert live.serving["org.torchrelay.commit"] == repository.head
    assert live.ask()[0] > 0.99
