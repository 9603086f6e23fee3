"""The exported model answers like `learn.predict`, without fastai: the network's numbers, and the handlers' masks and classes."""

import base64
import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.integration.fastai.conftest import Exported, Learners
from tests.start_handler import start_handler
from torchrelay.model.model import load_model
from torchrelay.stages import check
from torchrelay.verification.compare import compare
from torchrelay_handlers import Request
from torchrelay_handlers.messages import NotedSample
from torchrelay_handlers.network import loading

SEEDS = range(100, 104)
OUTPUTS_ATOL = 1e-4  # float32; the largest output of these learners is about 4
CONFIDENCE_ATOL = 1e-5
SAME_PIXELS = 0.999


@pytest.fixture(autouse=True)
def clean_imports() -> Iterator[None]:
    path = list(sys.path)
    sys.modules.pop("model", None)
    yield
    sys.path[:] = path
    sys.modules.pop("model", None)


def answers_of(folder: Path, pictures: list[Path]) -> list[dict[str, Any]]:
    handler = start_handler(folder)
    answers = handler.answer([Request(picture.read_bytes(), "image/png") for picture in pictures])
    assert [answer.status for answer in answers] == [200] * len(pictures)
    return [json.loads(answer.body) for answer in answers]


def test_this_environment_has_no_fastai() -> None:
    assert importlib.util.find_spec("fastai") is None
    assert importlib.util.find_spec("torchvision") is None


@pytest.mark.parametrize("name", ["unet", "classifier"])
def test_a_whole_model_directory_is_written(exported: dict[str, Exported], name: str) -> None:
    export = exported[name]
    checked = check.run(export.folder)
    assert checked.warnings == []
    assert checked.model.name == name
    assert [sample.name for sample in checked.samples] == ["learner"]
    assert (
        sorted(path.relative_to(export.folder).as_posix() for path in export.folder.rglob("*") if path.is_file())
        == export.result["files"]
    )
    for file in ("model.py", "model.yaml"):
        imports = [line for line in (export.folder / file).read_text().splitlines() if line.startswith(("import ", "from "))]
        assert all("fastai" not in line and "torchvision" not in line for line in imports)
    assert export.result["difference"] < OUTPUTS_ATOL


def test_model_yaml_has_the_learners_transforms(exported: dict[str, Exported]) -> None:
    statistics = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "mode": "RGB"}
    unet = load_model(exported["unet"].folder)
    assert unet.handler == "image-segmenter"
    expected = {"classes": "classes.txt", "size": [48, 64], "fit": "stretch", "answer": ["mask", "size", "classes"]}
    assert unet.handler_args == statistics | expected
    assert (exported["unet"].folder / "classes.txt").read_text() == "sky\nroad\ngrass\nbuilding\ntree\ncar\n"
    classifier = load_model(exported["classifier"].folder)
    assert classifier.handler == "image-classifier"
    # one class name ends in a space, which a line of text would lose
    expected = {"classes": "classes.json", "size": [72, 72], "fit": "crop", "activation": "softmax"}
    assert classifier.handler_args == statistics | expected
    assert json.loads((exported["classifier"].folder / "classes.json").read_text()) == ["both", "left", "right "]


@pytest.mark.parametrize("name", ["unet", "classifier"])
def test_the_weights_load_strictly_and_the_network_returns_the_same_numbers(
    exported: dict[str, Exported], learners: Learners, name: str
) -> None:
    folder = exported[name].folder
    spec = importlib.util.spec_from_file_location("exported_model", folder / "model.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    network = loading.load(folder / "model.pt", module.init_function, torch.device("cpu"))
    handler = start_handler(folder)
    for seed in SEEDS:
        picture = learners.folder / f"{'ask' if name == 'unet' else 'square'}-{seed}.png"
        output: Any = handler.steps.preprocess(picture.read_bytes())
        sample: Any = output.sample if isinstance(output, NotedSample) else output
        assert handler.steps.prepare is not None
        batch = handler.steps.prepare(sample[None])
        with torch.inference_mode():
            output = network.call(batch).numpy()
        expected = learners.answers[f"{name}-{seed}-output"]
        assert output.shape == expected.shape
        assert np.abs(output - expected).max() < OUTPUTS_ATOL
        assert np.abs(expected).max() > 100 * OUTPUTS_ATOL


def test_the_served_mask_is_the_predicted_mask(exported: dict[str, Exported], learners: Learners) -> None:
    served = answers_of(exported["unet"].folder, [learners.folder / f"ask-{seed}.png" for seed in SEEDS])
    same = []
    for seed, answer in zip(SEEDS, served, strict=True):
        expected = learners.answers[f"unet-{seed}"]
        mask = np.frombuffer(base64.b64decode(answer["base64_prediction"]), np.uint8).reshape(answer["size"])
        assert mask.shape == expected.shape == (48, 64)
        same.append(float((mask == expected).mean()))
        assert len(np.unique(expected)) > 1, "a mask of one class can be right by chance"
    assert min(same) >= SAME_PIXELS, same


def test_the_served_class_is_the_predicted_class(exported: dict[str, Exported], learners: Learners) -> None:
    names = ["both", "left", "right "]
    served = answers_of(exported["classifier"].folder, [learners.folder / f"square-{seed}.png" for seed in SEEDS])
    for seed, answer in zip(SEEDS, served, strict=True):
        confidences = learners.answers[f"classifier-{seed}-confidences"]
        assert answer["class"] == names[int(learners.answers[f"classifier-{seed}"])]
        assert answer["confidence"] == pytest.approx(float(confidences.max()), abs=CONFIDENCE_ATOL)


def test_a_cropped_picture_gets_the_same_class(exported: dict[str, Exported], learners: Learners) -> None:
    """The handler crops the same pixels as fastai, before it resizes them."""
    served = answers_of(exported["classifier"].folder, [learners.folder / f"ask-{seed}.png" for seed in SEEDS])
    for seed, answer in zip(SEEDS, served, strict=True):
        expected = learners.answers[f"classifier-{seed}-wide"]
        assert answer["class"] == ["both", "left", "right "][int(expected.argmax())]
        assert answer["confidence"] == pytest.approx(float(expected.max()), abs=CONFIDENCE_ATOL)


@pytest.mark.parametrize("name", ["unet", "classifier"])
def test_the_sample_gets_the_learners_answer(exported: dict[str, Exported], name: str) -> None:
    checked = check.run(exported[name].folder)
    handler = start_handler(exported[name].folder)
    for sample in checked.samples:
        answer = handler.answer([Request(sample.body, sample.content_type)])[0]
        assert compare(sample, answer.status, answer.content_type, answer.body, None) == []
