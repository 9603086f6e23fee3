"""Many kinds of learners return the same numbers once exported; unknown parts are refused by name."""

import json
from pathlib import Path
from typing import Any

import pytest

from torchrelay.authoring.fastai import directory
from torchrelay.authoring.fastai.learner import parse
from torchrelay.core.errors import ModelInvalid
from torchrelay.stages import check

DIFFERENCE = 1e-5  # of the largest output, or of 1
KNOWN = [
    "absent",
    "alexnet",
    "basic",
    "bottleneck",
    "densenet",
    "grey",
    "squeezenet",
    "unet-attention",
    "unet-binary",
    "unet-unsized",
    "unet-weight",
    "xresnet-attention",
    "xse-resnext18",
]


def answer_of(variants: Path, name: str, step: str = "read") -> dict[str, Any]:
    answer: dict[str, Any] = json.loads((variants / name / f"{step}.json").read_text())
    return answer


@pytest.mark.parametrize("name", KNOWN)
def test_the_exported_network_gives_the_same_numbers(variants: Path, name: str) -> None:
    comparison = answer_of(variants, name, "verify")
    assert comparison["difference"] <= DIFFERENCE * max(1.0, comparison["largest"])
    assert comparison["largest"] > 0.05
    assert comparison["same_as_reference"]


@pytest.mark.parametrize("name", KNOWN)
def test_the_directory_passes_check(variants: Path, tmp_path: Path, name: str) -> None:
    learner = parse(answer_of(variants, name))
    for file, content in directory.files(learner, name, "learner.pkl").items():
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_bytes(content)
    (tmp_path / directory.WEIGHTS).write_bytes(b"weights")
    model = check.run(tmp_path).model
    expected: dict[str, object] = {
        "grey": {"mode": "L", "mean": [0.0], "std": [1.0]},
        "absent": {"activation": "sigmoid", "top_k": 3},
        "unet-unsized": {"size": [40, 56], "fit": "stretch", "mean": [0.4, 0.5, 0.6], "std": [0.3, 0.2, 0.25]},
        "bottleneck": {"size": [64, 64], "fit": "crop", "classes": "classes.txt"},
    }.get(name, {})  # type: ignore[assignment] # of several types of values
    assert {key: model.handler_args.get(key) for key in expected} == expected
    assert model.handler == ("image-segmenter" if name.startswith("unet") else "image-classifier")
    # three names do not fit the two classes of a mask of one channel
    assert ("classes" in model.handler_args) == (name != "unet-binary")


def test_unknown_parts_are_refused_by_name(variants: Path) -> None:
    with pytest.raises(ModelInvalid) as caught:
        parse(answer_of(variants, "patched"))
    text = str(caught.value)
    assert "its loss fastai.losses.CrossEntropyLossFlat has its own decodes" in text
    assert "model.1.5 has its own forward, which replaces that of torch.nn.modules.activation.ReLU" in text
    assert "its Resize has the method pad; the handlers know squish and crop" in text
    assert "after_batch has the transform fastai.vision.augment.RandomResizedCropGPU" in text
    assert "model.0 has a forward hook, print" in text
    assert "model.1.9 is a torch.nn.modules.activation.Softsign" in text
    assert "supported: vision_learner over resnet" in text


def test_names_that_only_training_needed_can_be_missing(variants: Path) -> None:
    assert answer_of(variants, "absent")["stand_ins"] == ["authors.metric", "authors.Counter"]
    assert all(answer_of(variants, name)["stand_ins"] == [] for name in KNOWN if name != "absent")
