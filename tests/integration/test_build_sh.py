"""handlers/build.sh: the flags make an archive that serves; a wrong one is a clear error that names the flag."""

import json
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch
import yaml

from torchrelay.core.paths import ROOT
from torchrelay.image import mar

EXAMPLE = ROOT / "examples/resnet-factory"
CONFIG = "minWorkers: 2\nmaxWorkers: 2\nbatchSize: 4\nmaxBatchDelay: 40\nresponseTimeout: 52\n"
# Serves an unpacked archive in its own process, as TorchServe's worker does, and prints the answers.
SERVE = """
import json, sys
from pathlib import Path
folder, *pictures = sys.argv[1:]
sys.path[:] = [folder, *(path for path in sys.path if not path.endswith("handlers"))]
import torchrelay_service
from torchrelay_handlers.adapters.local import LocalContext
context = LocalContext(Path(folder), {"content-type": "image/png"})
torchrelay_service.handle(None, context)
for picture in pictures:
    print(torchrelay_service.handle([{"body": Path(picture).read_bytes()}], context)[0].decode())
"""


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A folder with an author's files: handler, checkpoint, configuration, requirements and packed sources."""
    for name in ("handler.py", "model.pt"):
        (tmp_path / name).write_bytes((EXAMPLE / name).read_bytes())
    (tmp_path / "model-config.yaml").write_text(CONFIG)
    (tmp_path / "requirements.txt").write_text("numpy==2.1.0\n")
    with tarfile.open(tmp_path / "source.tar.gz", "w:gz") as archive:
        archive.add(EXAMPLE / "model.py", "model.py")
    return tmp_path


def build(here: Path, **flags: str | None) -> subprocess.CompletedProcess[str]:
    defaults: dict[str, str | None] = {
        "model_name": "my_resnet",
        "model_file": "handler.py",
        "checkpoint_file": "model.pt",
        "config_file": "model-config.yaml",
        "requirements_file": "requirements.txt",
        "extra_files": "source.tar.gz",
        "version": "1.0",
    }
    arguments = [part for name, value in (defaults | flags).items() if value is not None for part in (f"--{name}", value)]
    environment = {**os.environ, "TORCHRELAY_PYTHON": sys.executable}
    return subprocess.run(
        [ROOT / "handlers/build.sh", *arguments],
        cwd=here,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_the_archive_holds_the_files_of_the_flags_and_serves(here: Path) -> None:
    done = build(here)
    assert (done.returncode, done.stdout) == (0, "my_resnet.mar\n"), done.stderr
    folder = here / "unpacked"
    mar.unpack(here / "my_resnet.mar", folder)
    manifest = json.loads((folder / "MAR-INF/MANIFEST.json").read_text())["model"]
    assert (manifest["modelName"], manifest["modelVersion"], manifest["serializedFile"]) == ("my_resnet", "1.0", "model.pt")
    assert manifest["requirementsFile"] == "requirements.txt"
    config = yaml.safe_load((folder / "model-config.yaml").read_text())
    expected = yaml.safe_load(CONFIG)
    assert {key: config[key] for key in expected} == expected
    assert "deviceType" not in config  # the server assigns one
    pictures = [EXAMPLE / f"samples/{name}.png" for name in ("two", "eight", "truncated")]
    served = subprocess.run(
        [sys.executable, "-c", SERVE, folder, *pictures], capture_output=True, text=True, timeout=120, check=False, cwd=folder
    )
    assert served.returncode == 0, served.stderr
    two, eight, truncated = map(json.loads, served.stdout.splitlines())
    assert (two[1:], eight[1:], truncated["status"]) == ([2, "two"], [8, "eight"], 400)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_weights_that_execute_code_need_their_flag(here: Path) -> None:
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(here / "code.pt"))  # type: ignore[no-untyped-call] # torch's own
    refused = build(here, checkpoint_file="code.pt")
    assert refused.returncode == 10
    assert "--checkpoint_file: code.pt is a torchscript file" in refused.stderr
    assert "add `--weights_format torchscript`" in refused.stderr
    assert not (here / "my_resnet.mar").exists()
    done = build(here, checkpoint_file="code.pt", weights_format="torchscript")
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(here / "my_resnet.mar") as archive:
        assert json.loads(archive.read("torchrelay.json"))["weights_format"] == "torchscript"


def test_the_same_inputs_give_the_same_bytes_and_dashes_are_flags_too(here: Path) -> None:
    (here / "other").mkdir()
    assert build(here).returncode == 0
    again = build(here, model_name=None, **{"model-name": "my_resnet", "export-path": "other"})
    assert again.returncode == 0, again.stderr
    assert (here / "other/my_resnet.mar").read_bytes() == (here / "my_resnet.mar").read_bytes()


def test_the_configuration_can_name_the_extra_files(here: Path) -> None:
    (here / "model-config.yaml").write_text(CONFIG + "system: {extraFiles: source.tar.gz, maxGPUMemory: 500}\n")
    assert build(here).returncode == 0
    with zipfile.ZipFile(here / "my_resnet.mar") as archive:
        assert archive.read("model.py") == (EXAMPLE / "model.py").read_bytes()
        assert yaml.safe_load(archive.read("model-config.yaml"))["system"] == {"maxGPUMemory": 500}


def test_a_handler_can_import_base_handler(here: Path) -> None:
    text = (here / "handler.py").read_text().replace("from torchrelay_handlers import", "from base_handler import")
    (here / "handler.py").write_text(text)
    assert build(here).returncode == 0


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        ({"version": None}, 2, "the following arguments are required: --version"),
        ({"checkpoint_flie": "x"}, 2, "did you mean --checkpoint_file?"),
        ({"model_name": "../x"}, 10, "--model_name: '../x' is not a legal name"),
        ({"version": "a b"}, 10, "--version: "),
        ({"model_file": "nothing.py"}, 10, "--model_file: nothing.py does not exist"),
        ({"model_file": "model.pt"}, 10, "--model_file: model.pt is not a Python file"),
        ({"checkpoint_file": "nothing.pt"}, 10, "--checkpoint_file: nothing.pt does not exist"),
        ({"checkpoint_file": "."}, 10, "--checkpoint_file: . is a folder, not a file"),
        ({"config_file": "nothing.yaml"}, 10, "--config_file: nothing.yaml does not exist"),
        ({"extra_files": "handler.py"}, 10, "--extra_files: handler.py is not a readable tar or zip file"),
        ({"export_path": "nowhere"}, 10, "--export_path: nowhere is not a folder"),
    ],
)
def test_a_wrong_flag_is_one_clear_error_and_nothing_is_written(
    here: Path, flags: dict[str, str | None], code: int, message: str
) -> None:
    done = build(here, **flags)
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(here.glob("*.mar"))


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("model-config.yaml", "batchsize: 4\n", "model-config.yaml:1: batchsize: unknown key; did you mean batchSize?"),
        ("model-config.yaml", "a: [\n", "model-config.yaml:2: is not YAML"),
        ("model-config.yaml", "system: {extraFiles: other.tar}\n", "names other.tar, but --extra_files does not"),
        ("requirements.txt", "torch==2.0\n", "requirements.txt:1: torch comes with the runtime image"),
        ("handler.py", "def f(:\n", "handler.py:1: is not Python"),
        ("handler.py", "x = 1\n", "handler.py:1: holds no handler"),
        ("model.pt", "", "--checkpoint_file: "),
    ],
)
def test_a_mistake_in_a_file_is_reported_with_the_name_in_the_flag(here: Path, file: str, text: str, message: str) -> None:
    (here / file).write_text(text)
    done = build(here)
    assert done.returncode == 10, done.stderr
    assert message in done.stderr
    assert "model.yaml" not in done.stderr


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["model.yaml"], "holds model.yaml, but the flags"),
        (["a", "a/b.py"], "holds a/b.py"),
        (["handler.py/b.py"], "holds handler.py/b.py"),
    ],
)
def test_members_that_collide_are_refused(here: Path, names: list[str], message: str) -> None:
    with zipfile.ZipFile(here / "more.zip", "w") as archive:
        for name in names:
            archive.writestr(name, "name: other\n")
    done = build(here, extra_files="more.zip")
    assert done.returncode == 10, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(here.glob("*.mar"))
