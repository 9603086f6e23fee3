"""A valid model.yaml: the meaning of each form."""

from pathlib import Path
from typing import Any

import pytest

from tests.unit.model_dirs import GOOD_YAML, write
from torchrelay.core.errors import ModelInvalid
from torchrelay.model import quantities
from torchrelay.model.model import Model, load_model


def model_of(folder: Path, more: str = "", files: dict[str, str | bytes | None] | None = None) -> Model:
    return load_model(write(folder, {"model.yaml": GOOD_YAML + more, **(files or {})}))


def test_defaults(tmp_path: Path) -> None:
    model = model_of(tmp_path)
    assert model.version is None
    assert model.requirements is None
    assert (model.device, model.workers, model.max_body_mb, model.samples) == ("cpu", 1, 6, "samples")
    assert (model.batch.size, model.batch.delay_ms) == (8, 1)
    assert (model.timeouts.startup_s, model.timeouts.response_s, model.timeouts.drain_s) == (120, 60, 25)
    assert (model.resources.cpu, model.memory_bytes, model.gpus) == (1, 2 << 30, 0)
    assert (model.targets.docker.port, model.targets.local.port, model.targets.kubernetes) == (8080, 8080, None)
    assert (model.handler_file, model.handler_attribute, model.first_target) == (None, None, "docker")


def test_everything_written_out(tmp_path: Path) -> None:
    text = """\
version: 1.10
requirements: req.txt
extra_files: [./data/, vocab.txt]
samples: samples/
device: gpu
batch: {size: 32, delay_ms: 5}
workers: 2
timeouts: {startup_s: 300, response_s: 10, drain_s: 15}
max_body_mb: 20
resources: {cpu: 0.5, memory: 1.5G}
environment: {DEBUG: no, PORT: 0x1F, LEVEL: 010, VERSION: 1.10, FLAG: true}
targets: {lambda: {memory_mb: 3008}, kubernetes: , local: {port: 9000}}
"""
    model = model_of(tmp_path, text)
    assert model.version == "1.10"
    assert model.requirements == "req.txt"
    assert model.extra_files == ["data", "vocab.txt"]
    assert model.samples == "samples"
    assert (model.memory_bytes, model.gpus) == (1_500_000_000, 1)
    assert model.environment == {"DEBUG": "no", "PORT": "0x1F", "LEVEL": "010", "VERSION": "1.10", "FLAG": "true"}
    assert model.targets.lambda_ == {"memory_mb": 3008}
    assert model.targets.kubernetes is not None
    assert model.targets.kubernetes.replicas == 1
    assert model.targets.local.port == 9000
    assert model.first_target == "lambda"


@pytest.mark.parametrize(
    ("text", "version"), [("1.10", "1.10"), ("1e3", "1e3"), ("0x10", "0x10"), ("no", "no"), ("007", "007"), ("'2'", "2")]
)
def test_version_stays_as_written(tmp_path: Path, text: str, version: str) -> None:
    assert model_of(tmp_path, f"version: {text}\n").version == version


def test_requirements_are_found_unless_refused(tmp_path: Path) -> None:
    files: dict[str, str | bytes | None] = {"requirements.txt": "numpy==2.1.0\n"}
    assert model_of(tmp_path / "a", files=files).requirements == "requirements.txt"
    assert model_of(tmp_path / "b", "requirements: null\n", files).requirements is None


@pytest.mark.parametrize(
    ("uri", "scheme", "filename", "inside"),
    [
        ("model.pt", "file", "model.pt", "model.pt"),
        ("./data/model.pt", "file", "model.pt", "data/model.pt"),
        ("/data/model.pt", "file", "model.pt", None),
        ("file:///data/my%20model.pt", "file", "my model.pt", None),
        ("s3://bucket/a/model.pt", "s3", "model.pt", None),
        ("s3://bucket/a/model.pt?versionId=3x", "s3", "model.pt", None),
        ("https://host/a/model%2Bx.pt?token=1#part", "https", "model+x.pt", None),
        ("http://127.0.0.1:8000/model.pt", "http", "model.pt", None),
        ("hf://org/repo/a/model.safetensors@refs/pr/1", "hf", "model.safetensors", None),
    ],
)
def test_weights(tmp_path: Path, uri: str, scheme: str, filename: str, inside: str | None) -> None:
    text = GOOD_YAML.replace("model.pt", f'"{uri}"')
    weights = load_model(write(tmp_path, {"model.yaml": text})).weights
    assert (weights.uri, weights.scheme, weights.filename, weights.inside) == (uri, scheme, filename, inside)
    assert weights.sha256 is None


def test_weights_with_digest(tmp_path: Path) -> None:
    text = GOOD_YAML.replace("model.pt", f"{{uri: model.pt, sha256: {'AB' * 32}}}")
    weights = load_model(write(tmp_path, {"model.yaml": text})).weights
    assert weights.sha256 == "ab" * 32
    digits = GOOD_YAML.replace("model.pt", f"{{uri: model.pt, sha256: {'1' * 64}}}")
    assert load_model(write(tmp_path, {"model.yaml": digits})).weights.sha256 == "1" * 64


@pytest.mark.parametrize(
    ("handler", "file", "attribute"),
    [("handler.py", "handler.py", None), ("src/h.py:Mine", "src/h.py", "Mine"), ("tensor", None, None)],
)
def test_handler(tmp_path: Path, handler: str, file: str | None, attribute: str | None) -> None:
    model = load_model(write(tmp_path, {"model.yaml": GOOD_YAML.replace("tensor", handler)}))
    assert (model.handler_file, model.handler_attribute) == (file, attribute)


def test_bodies_that_the_memory_cannot_hold_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelInvalid) as error:
        model_of(tmp_path, "max_body_mb: 1024\n")
    (problem,) = error.value.problems
    assert (problem.field, problem.line) == ("max_body_mb", len(GOOD_YAML.splitlines()) + 1)
    assert problem.message.startswith("resources.memory is 2048 MiB, and bodies of this size need 7488 MiB")
    assert model_of(tmp_path / "more", "max_body_mb: 1024\nresources: {memory: 16Gi}\n").max_body_mb == 1024


@pytest.mark.parametrize("networks", ["[10.0.0.0/8]", "['2001:db8::/32', 192.0.2.1]"])
def test_trusted_proxies(tmp_path: Path, networks: str) -> None:
    assert len(model_of(tmp_path, f"trusted_proxies: {networks}\n").trusted_proxies) >= 1


@pytest.mark.parametrize("network", ["10.0.0.1/8", "any", "0.0.0.0/0; include x", "300.0.0.0/8"])
def test_other_texts_are_refused_as_networks(tmp_path: Path, network: str) -> None:
    with pytest.raises(ModelInvalid, match="is not a network"):
        model_of(tmp_path, f"trusted_proxies: ['{network}']\n")


def test_the_model_cannot_be_changed(tmp_path: Path) -> None:
    model: Any = model_of(tmp_path)
    with pytest.raises(ValueError, match="frozen"):
        model.name = "other"


def test_load_model_looks_at_no_other_file(tmp_path: Path) -> None:
    assert load_model(write(tmp_path, {"model.pt": None, "samples/one.json": None})).name == "digits"
    with pytest.raises(ModelInvalid) as caught:
        model_of(tmp_path, "wokers: 1\nworkers: x\n")
    assert [problem.line for problem in caught.value.problems] == [6, 7]


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("512Mi", 512 << 20),
        ("2Gi", 2 << 30),
        ("1.5G", 1_500_000_000),
        ("300000k", 300_000_000),
        ("1Ti", 1 << 40),
        ("300000000", 300_000_000),
    ],
)
def test_memory(text: str, size: int) -> None:
    assert quantities.parse(text) == size


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("2gb", "did you mean 2G"),
        ("2 Gi", "did you mean 2Gi"),
        ("512MB", "did you mean 512M"),
        ("2g", "did you mean 2Gi"),
        ("-1Gi", "not an amount"),
        ("", "not an amount"),
        ("1e9", "not an amount"),
        ("٣Gi", "not an amount"),
        ("0", "less than"),
        ("255Mi", "less than"),
    ],
)
def test_memory_refused(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        quantities.parse(text)
