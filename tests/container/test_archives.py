"""Archives of `torchrelay archive` and build.sh serve on stock TorchServe 0.12; those of torch-model-archiver in our image."""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import docker
import torch

from tests.container.harness import PREDICT, PYTHON, Factory, poll
from torchrelay.core.paths import ROOT
from torchrelay.image import mar

EXAMPLE = ROOT / "examples/resnet-factory"
DIGITS = ROOT / "examples/digits"
# Needs the files of unpack_dependencies, which stock TorchServe does not run.
UNPACKS = """
import os
from torch import nn
from base_handler import handler_factory

def unpack_dependencies():
    os.system("python -m zipfile -e names.zip unpacked")

def init_function():
    with open("unpacked/names.txt") as file:
        assert file.read() == "one two"
    return nn.Flatten(0)

handler = handler_factory(init_function=init_function, unpack_dependencies=unpack_dependencies)
"""
# A usual TorchServe model: a handler class, a model file and a state_dict.
FOREIGN = """
import os
import torch
from model import Net

class Handler:
    def initialize(self, context):
        folder = context.system_properties["model_dir"]
        self.model = Net()
        self.model.load_state_dict(torch.load(os.path.join(folder, context.manifest["model"]["serializedFile"]), weights_only=True))
        self.model.eval()

    def handle(self, data, context):
        with torch.inference_mode():
            return self.model(torch.tensor([row["body"] for row in data], dtype=torch.float32)).tolist()
"""
NETWORK = """
from torch import nn

class Net(nn.Linear):
    def __init__(self):
        super().__init__(2, 1)
"""


def run(*argv: str | Path, cwd: Path) -> None:
    environment = {**os.environ, "TORCHRELAY_PYTHON": sys.executable}
    done = subprocess.run(list(argv), cwd=cwd, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def sources(folder: Path) -> None:
    """Write the files of the two archives by build.sh."""
    with tarfile.open(folder / "source.tar.gz", "w:gz") as archive:
        archive.add(EXAMPLE / "model.py", "model.py")
    with zipfile.ZipFile(folder / "names.zip", "w") as names:
        names.writestr("names.txt", "one two")
    with tarfile.open(folder / "names.tar", "w") as archive:
        archive.add(folder / "names.zip", "names.zip")
    (folder / "unpacks.py").write_text(UNPACKS)
    (folder / "model-config.yaml").write_text("minWorkers: 1\nmaxWorkers: 1\nbatchSize: 4\nmaxBatchDelay: 2\nresponseTimeout: 60\n")


def test_our_archives_serve_on_stock_torchserve(client: docker.DockerClient, runtime: str, tmp_path: Path) -> None:
    """TorchServe by its own launcher: without our front and entrypoint; of our libraries only those in the archives."""
    sources(tmp_path)
    script = ROOT / "handlers/build.sh"
    common = ["--version", "1.0", "--config_file", "model-config.yaml"]
    checkpoint = EXAMPLE / "model.pt"
    run(
        script, "--model_name", "resnet", "--model_file", EXAMPLE / "handler.py", "--checkpoint_file", checkpoint,
        "--extra_files", "source.tar.gz", *common, cwd=tmp_path,
    )  # fmt: skip
    torchless = tmp_path / "empty.safetensors"
    torchless.write_bytes((2).to_bytes(8, "little") + b"{}")
    run(
        script, "--model_name", "unpacks", "--model_file", "unpacks.py", "--checkpoint_file", torchless,
        "--extra_files", "names.tar", "--setup_at_start", *common, cwd=tmp_path,
    )  # fmt: skip
    shutil.copytree(DIGITS, tmp_path / "digits", ignore=shutil.ignore_patterns(".torchrelay"))
    run(sys.executable, "-m", "torchrelay", "archive", "digits", "--output", tmp_path / "digits.mar", cwd=tmp_path)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in ("resnet", "unpacks", "digits"):
            archive.add(tmp_path / f"{name}.mar", f"store/{name}.mar")
    two, seven = (
        base64.b64encode(file.read_bytes()).decode() for file in (EXAMPLE / "samples/two.png", DIGITS / "samples/seven.png")
    )
    ask = (
        "import base64, json, urllib.request\n"
        "def ask(name, body, kind):\n"
        "    request = urllib.request.Request(f'http://127.0.0.1:8080/predictions/{name}', body, {'Content-Type': kind})\n"
        "    return json.loads(urllib.request.urlopen(request, timeout=30).read())\n"
        f"print(json.dumps([ask('resnet/1.0', base64.b64decode('{two}'), 'image/png'), "
        f"ask('unpacks', b'[[1, 2], [3, 4]]', 'application/json'), ask('digits', base64.b64decode('{seven}'), 'image/png')]))\n"
    )
    launch = (
        "torchserve --foreground --ncs --disable-token-auth --model-store /tmp/store"
        " --models resnet=resnet.mar unpacks=unpacks.mar digits=digits.mar"
    )
    container = client.containers.create(
        runtime,
        entrypoint=["sh", "-c", f"cd /tmp && PATH={PYTHON.rpartition('/')[0]}:$PATH {launch}"],
        network_mode="none",
        environment={"TEMP": "/tmp"},  # noqa: S108 -- inside the container
        healthcheck={"test": ["NONE"]},
    )
    try:
        container.put_archive("/tmp", buffer.getvalue())  # noqa: S108 -- inside the container
        container.start()

        def answers() -> Any:
            container.reload()
            assert container.status == "running", container.logs().decode()
            code, output = container.exec_run([PYTHON, "-c", ask])
            assert isinstance(output, bytes)
            return json.loads(output) if code == 0 else None

        resnet, unpacks, digits = poll("TorchServe's answers", answers, 90)
        assert resnet[1:] == [2, "two"]
        assert unpacks == [1, 2, 3, 4]
        assert digits["class"] == "7"
    except AssertionError:
        print(container.logs().decode())
        raise
    finally:
        container.remove(force=True, v=True)


def test_an_archive_by_torch_model_archiver_serves_in_our_image(container: Factory, tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(NETWORK)
    (tmp_path / "handler.py").write_text(FOREIGN)
    torch.save({"weight": torch.tensor([[2.0, 3.0]]), "bias": torch.tensor([1.0])}, tmp_path / "weights.pth")
    (tmp_path / "model-config.yaml").write_text("minWorkers: 1\nmaxWorkers: 1\nbatchSize: 4\nmaxBatchDelay: 1\n")
    run(
        sys.executable, "-m", "model_archiver.model_packaging", "--model-name", "foreign", "--version", "1.0",
        "--model-file", "model.py", "--serialized-file", "weights.pth", "--handler", "handler.py",
        "--config-file", "model-config.yaml", "--export-path", ".", cwd=tmp_path,
    )  # fmt: skip
    mar.unpack(tmp_path / "foreign.mar", tmp_path / "unpacked")
    unpacked = tmp_path / "unpacked"
    files = {path.relative_to(unpacked).as_posix(): path.read_bytes() for path in unpacked.rglob("*") if path.is_file()}
    warmup = {"content_type": "application/json", "body": base64.b64encode(b"[1, 2]").decode()}
    tag = container.archive_image(files, {"batch_size": 4, "warmup": warmup})
    on = container.start(tag).wait_ready()
    answer = on.send("POST", PREDICT, b"[10, 100]")
    assert (answer.status, answer.json) == (200, [321.0])
