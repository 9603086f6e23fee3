"""model-config.yaml beside model.yaml: the file of seed 004 is read; a contradiction of the two is one error with both lines."""

import io
import re
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests import messages
from tests.errors import fails
from tests.unit.model_dirs import GOOD_YAML, write
from torchrelay.core.errors import ModelInvalid
from torchrelay.model import server_config
from torchrelay.model.model import Model
from torchrelay.stages import check

SEED_004 = """\
# TorchServe controls.
minWorkers: 1   # Minimum number of workers
maxWorkers: 1
maxBatchDelay: 4000     # in msec
responseTimeout: 5200
batchSize: 4
deviceType: "gpu"
deviceIds: [0,1,2,3]

system:
  extraFiles: "test.tar.gz"
  maxGPUMemory: 500
"""


def packed(files: dict[str, bytes], kind: str = "w:gz") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=kind) as archive:  # type: ignore[call-overload] # a mode of the test's own
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


SOURCE = packed({"./nets/block.py": b"x = 1\n", "./nets/__pycache__/block.pyc": b"\0"})


def load_model(folder: Path, config: str, more: str = "", files: dict[str, str | bytes | None] | None = None) -> Model:
    named: dict[str, str | bytes | None] = {"model.yaml": GOOD_YAML + more, "model-config.yaml": config, **(files or {})}
    return check.run(write(folder, named)).model


def test_the_file_of_seed_004_is_read(tmp_path: Path) -> None:
    model = load_model(tmp_path, SEED_004, "", {"test.tar.gz": SOURCE})
    assert (model.workers, model.batch.size, model.batch.delay_ms, model.timeouts.response_s) == (1, 4, 4000, 5200)
    assert (model.device, model.gpus) == ("gpu", 4)
    settings = server_config.read(tmp_path)
    assert settings.files == {"nets/block.py": b"x = 1\n"}
    assert settings.rest == {"maxWorkers": 1, "deviceIds": [0, 1, 2, 3], "system": {"maxGPUMemory": 500}}


def test_a_field_in_neither_file_has_its_default(tmp_path: Path) -> None:
    model = load_model(tmp_path, "jobQueueSize: 9\nhandler: {mine: [1]}\n", "batch: {delay_ms: 5}\n")
    assert (model.workers, model.batch.size, model.batch.delay_ms, model.device) == (1, 8, 5, "cpu")


def test_each_field_is_read_separately(tmp_path: Path) -> None:
    model = load_model(tmp_path, "batchSize: 3\nmaxWorkers: 2\n", "batch: {delay_ms: 5}\n")
    assert (model.batch.size, model.batch.delay_ms, model.workers) == (3, 5, 2)


def test_equal_values_in_both_files_are_allowed(tmp_path: Path) -> None:
    model = load_model(tmp_path, "batchSize: 3\ndeviceIds: [0]\n", "batch: {size: 3}\ndevice: gpu\nresources: {gpu: 2}\n")
    assert (model.batch.size, model.gpus) == (3, 2)


@pytest.mark.parametrize(
    ("config", "more", "message"),
    [
        (
            "jobQueueSize: 2\nbatchSize: 3\n",
            "batch:\n  size: 4\n",
            "model-config.yaml:2: batchSize: is 3, and batch.size is 4 at model.yaml:7; say it in one of the two files, or alike",
        ),
        ("minWorkers: 2\n", "workers: 1\n", "model-config.yaml:1: minWorkers: is 2, and workers is 1 at model.yaml:6"),
        ("maxWorkers: 2\n", "workers: 1\n", "model-config.yaml:1: maxWorkers: is 2, and workers is 1 at model.yaml:6"),
        ("maxBatchDelay: 2\n", "batch: {delay_ms: 1}\n", "maxBatchDelay: is 2, and batch.delay_ms is 1 at model.yaml:6"),
        ("responseTimeout: 9\n", "timeouts: {response_s: 8}\n", "responseTimeout: is 9, and timeouts.response_s is 8"),
        ("startupTimeout: 9\n", "timeouts: {startup_s: 8}\n", "startupTimeout: is 9, and timeouts.startup_s is 8"),
        ("deviceType: gpu\n", "device: cpu\n", 'deviceType: is "gpu", and device is "cpu" at model.yaml:6'),
        ("deviceIds: [0]\n", "device: cpu\n", 'deviceIds: means device: gpu, and device is "cpu" at model.yaml:6'),
        (
            "deviceIds: [3]\n",
            "device: gpu\nresources: {gpu: 2}\n",
            "deviceIds: means resources.gpu: 4, and resources.gpu is 2 at model.yaml:7",
        ),
    ],
)
def test_a_contradiction_is_one_error_with_both_lines(tmp_path: Path, config: str, more: str, message: str) -> None:
    with pytest.raises(ModelInvalid) as refused:
        load_model(tmp_path, config, more)
    (problem,) = refused.value.problems
    assert message in str(problem)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("batchsize: 4\n", "model-config.yaml:1: batchsize: unknown key; did you mean batchSize?"),
        ("a: 1\nsystem: {extra_files: a.tar}\n", "model-config.yaml:2: system.extra_files: unknown key; did you mean extraFiles?"),
        ("system: {maxGpuMemory: 4}\n", "did you mean maxGPUMemory?"),
        ("mine: 1\n", "model-config.yaml:1: mine: unknown key; allowed: asyncCommunication, batchSize"),
        ("torchrun: {nproc_per_node: 2}\n", "did you mean nproc-per-node?"),
        ("batchSize: '4'\n", "model-config.yaml:1: batchSize: "),
        ("batchSize: 4.0\n", "batchSize: "),
        ("batchSize: true\n", "batchSize: "),
        ("batchSize: 2000\n", "must be at most 1024"),
        ("maxBatchDelay: 0\n", "write at least 1: TorchServe treats 0 as 100 ms"),
        ("minWorkers: 0\n", "write at least 1: nothing would start one later"),
        ("minWorkers: 3\nmaxWorkers: 2\n", "minWorkers above maxWorkers"),
        ("deviceType: neuron\n", "a model is served on cpu or gpu"),
        ("deviceIds: 1\n", "deviceIds: "),
        ("deviceIds: [0, 0]\n", "names a GPU twice"),
        ("deviceIds: [-1]\n", "deviceIds[0]: "),
        ("deviceIds: [0]\ndeviceType: cpu\n", "deviceIds, which are GPUs, and deviceType cpu"),
        ("parallelType: both\n", "parallelType: "),
        ("useVenv: true\n", "requirements are installed when the image is built"),
        ("handler: 3\n", "handler: "),
        ("system: {maxGPUMemory: 0}\n", "system.maxGPUMemory: must be at least 1"),
        ("system: {extraFiles: ''}\n", "names no archive"),
        ("system: {extraFiles: ../a.tar}\n", "system.extraFiles: "),
        ("system: {extraFiles: none.tar}\n", 'model-config.yaml:1: system.extraFiles: "none.tar" does not exist'),
        ("system: {extraFiles: model.yaml}\n", "is not a readable tar or zip file"),
        ("batchSize: 4\nbatchSize: 5\n", "model-config.yaml:2: batchSize: is written twice"),
    ],
)
def test_mistakes_are_reported_with_file_line_and_fix(tmp_path: Path, config: str, message: str) -> None:
    with pytest.raises(ModelInvalid, match=re.escape(message)):
        load_model(tmp_path, config)


def test_all_mistakes_of_both_files_are_reported_at_once(tmp_path: Path) -> None:
    with pytest.raises(ModelInvalid) as refused:
        load_model(tmp_path, "batchsize: 4\nminWorkers: 0\n", "devise: gpu\n")
    assert [problem.file for problem in refused.value.problems] == ["model.yaml", "model-config.yaml", "model-config.yaml"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (packed({"../x.py": b""}), "which is not a path below a folder"),
        (packed({"/x.py": b""}), "which is not a path below a folder"),
        (packed({}), "holds no file"),
        (packed({"MODEL.PY": b""}), 'unpacks to "MODEL.PY", and "model.py" gets that name already'),
        (SOURCE[:60], "is not a readable tar or zip file"),
        (packed({"model.pt": b""}), 'unpacks to "model.pt", and "model.pt" gets that name already'),
        (packed({"torchrelay_handlers/x.py": b""}), "a name that the archive needs itself"),
        (packed({"model-config.yaml": b""}), "a name that the archive needs itself"),
    ],
    ids=range(8),  # archives hold the time at which they were made
)
def test_harmful_extra_files_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(ModelInvalid, match=re.escape(message)):
        load_model(tmp_path, "system: {extraFiles: x.tar.gz}\n", "", {"x.tar.gz": content})


def test_links_are_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        info = tarfile.TarInfo("x.py")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(info)
    with fails(ModelInvalid, words=messages.LINK_OR_DEVICE):
        load_model(tmp_path, "system: {extraFiles: x.tar}\n")


def test_several_archives_and_zip_files_are_accepted(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr("lib/b.py", "")
    text = "from lib import b\nimport a\nhandler = 1\n"
    yaml = GOOD_YAML.replace("tensor", "handler.py")
    files: dict[str, str | bytes | None] = {
        "model.yaml": yaml,
        "model-config.yaml": "system: {extraFiles: 'a.tar, b.zip'}\n",
        "a.tar": packed({"a.py": b""}, "w"),
        "handler.py": text,
        "a.py": "",  # beside the model, and in the archive by a.tar alone
    }
    assert check.run(write(tmp_path, files)).warnings == []
    assert set(server_config.read(tmp_path).files) == {"a.py", "lib/b.py"}


def test_a_tar_that_ends_in_a_zip_file_is_a_tar(tmp_path: Path) -> None:
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("inner.py", "")
    load_model(tmp_path, "system: {extraFiles: a.tar}\n", "", {"a.tar": packed({"data.zip": inner.getvalue()}, "w")})
    assert set(server_config.read(tmp_path).files) == {"data.zip"}


def test_a_gpu_by_the_file_counts_where_the_model_is_judged(tmp_path: Path) -> None:
    assert load_model(tmp_path, "deviceType: gpu\n", "resources: {gpu: 2}\n").gpus == 2
    with pytest.raises(ModelInvalid, match="asks for 2, but device is cpu"):
        load_model(tmp_path, "batchSize: 3\n", "resources: {gpu: 2}\n")


def test_every_verb_can_have_both_files_together(tmp_path: Path) -> None:
    load_model(tmp_path, "batchSize: 3\n")
    assert server_config.load_model(tmp_path).batch.size == 3
    (tmp_path / "model-config.yaml").write_text("minWorkers: 2\n")
    (tmp_path / "model.yaml").write_text(GOOD_YAML + "workers: 1\n")
    with pytest.raises(ModelInvalid, match=re.escape("workers is 1 at model.yaml:6")):
        server_config.load_model(tmp_path)
