"""The CUDA image, built for real from the package index; on a machine without a GPU it ends with a message."""

import json
import os
from pathlib import Path

import docker
import pytest
from docker.errors import ContainerError

from tests.container.base_image import ensure_base_image
from torchrelay.core.paths import IMAGE_PYTHON, IMAGE_SERVING
from torchrelay.docker.daemon import daemon
from torchrelay.image.runtime import RuntimeSettings, build_if_missing

pytestmark = pytest.mark.timeout(3600)
SERVING = {
    "name": "m", "version": "1", "model_dir": "/opt/torchrelay/models/m", "device": "gpu", "workers": 1, "batch_size": 1,
    "batch_delay_ms": 1, "startup_timeout_s": 30, "response_timeout_s": 10, "drain_timeout_s": 5, "max_body_bytes": 1000,
    "deps_dir": None, "warmup": None, "environment": {},
}  # fmt: skip


@pytest.fixture(scope="module")
def gpu_image() -> str:
    settings = RuntimeSettings.from_environment("gpu")
    if not os.environ.get("TORCHRELAY_BASE_IMAGE"):
        settings.arguments["BASE_IMAGE"] = ensure_base_image()
    with daemon() as client:
        return build_if_missing(client, settings)


def test_the_image_has_torch_with_cuda(gpu_image: str) -> None:
    client = docker.from_env(timeout=600)
    code = "import json, torch; print(json.dumps([torch.version.cuda, torch.ones(2).sum().item()]))"
    output = client.containers.run(gpu_image, entrypoint=[IMAGE_PYTHON, "-c", code], remove=True, network_mode="none")
    cuda, total = json.loads(output.splitlines()[-1])
    assert cuda is not None
    assert total == 2.0
    print(f"GPU image: {client.images.get(gpu_image).attrs['Size'] / 1e9:.1f} GB unpacked, CUDA {cuda}")


def test_without_a_gpu_it_ends_with_one_message(gpu_image: str, tmp_path: Path) -> None:
    serving = tmp_path / "serving.json"
    serving.write_text(json.dumps(SERVING))
    client = docker.from_env(timeout=600)
    with pytest.raises(ContainerError) as caught:
        client.containers.run(
            gpu_image, remove=True, network_mode="none", volumes={str(serving): {"bind": IMAGE_SERVING, "mode": "ro"}}
        )
    assert caught.value.exit_status != 0
    stderr = bytes(caught.value.stderr or b"")  # type: ignore[arg-type] # docker-py gives bytes
    output = [line for line in stderr.decode().splitlines() if "GPU" in line]
    assert len(output) == 1
