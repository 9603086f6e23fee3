"""Runs in the environment that has fastai: takes many kinds of untrained learners through both steps, without the sandbox.

    python variants.py FOLDER          # FOLDER/NAME/read.json and verify.json, beside the steps' own files

Every normalisation gets numbers as after training, so that no part of a network is skipped because it is zero.
"""

import importlib
import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fastai.layers import NormType
from fastai.vision import all as vision
from fastai.vision.models import xresnet
from safetensors.torch import load_file  # type: ignore[import-not-found, unused-ignore] # in this environment alone
from torchvision.models import resnet  # type: ignore[import-not-found, unused-ignore] # the same

ROOT = Path(__file__).parents[3]
sys.path.insert(0, str(ROOT / "scripts"))
sys.path.insert(0, str(ROOT / "handlers"))
from torchrelay.authoring.fastai import model_source  # noqa: E402 -- found by the lines above: torchrelay is not installed in this environment
from torchrelay.authoring.fastai.inside import load, read, verify  # noqa: E402 -- the same

SIDE = 64
CLASSES = ["one", "two", "three"]


def images(folder: Path, cls: Any = vision.PILImage, resize: Any = None, labels: str = "one", batch: Any = None) -> Any:
    """Loaders of noise: a class, several classes or a mask for each picture."""
    blocks = {
        "one": (vision.CategoryBlock(vocab=CLASSES), lambda path: CLASSES[int(path.stem) % 3]),
        "many": (vision.MultiCategoryBlock(vocab=CLASSES), lambda path: CLASSES[: int(path.stem) % 3]),
        "mask": (vision.MaskBlock(codes=np.array(CLASSES)), lambda path: path.parent.parent / "masks" / path.name),
    }
    normalize = [vision.Normalize.from_stats([0.4, 0.5, 0.6], [0.3, 0.2, 0.25])] if cls is vision.PILImage else []
    block = vision.DataBlock(
        blocks=(vision.ImageBlock(cls), blocks[labels][0]),
        get_items=vision.get_image_files,
        get_y=blocks[labels][1],
        item_tfms=[resize] if resize is not None else [],
        batch_tfms=[*([batch] if batch is not None else []), *normalize],
    )
    return block.dataloaders(folder / "pictures", bs=2, num_workers=0)


def classify(arch: Any, cls: Any = vision.PILImage, labels: str = "one", **more: Any) -> Callable[[Path], Any]:
    def make(folder: Path) -> Any:
        loaders = images(folder, cls, vision.Resize(SIDE), labels)
        return vision.vision_learner(loaders, arch, pretrained=False, normalize=False, **more)

    return make


def segment(arch: Any, resize: Any = None, **more: Any) -> Callable[[Path], Any]:
    def make(folder: Path) -> Any:
        return vision.unet_learner(images(folder, resize=resize, labels="mask"), arch, pretrained=False, normalize=False, **more)

    return make


def narrow(**more: Any) -> Any:
    """xresnet18 with a quarter of the channels: the test is about the structure."""
    return partial(xresnet.xresnet18, widen=0.25, stem_szs=(8, 8, 64), **more)


def short(block: Any) -> Any:
    """torchvision's ResNet with one block where the real ones have several."""
    return partial(tiny_resnet, block)


def tiny_resnet(block: Any, **_: Any) -> Any:
    return resnet.ResNet(block, [1, 1, 1, 1])


def tiny_densenet(**_: Any) -> Any:
    """Ends in a pool, because fastai cuts unknown models there."""
    return torch.nn.Sequential(vision.models.DenseNet(8, (2, 2, 2, 2), 16).features, torch.nn.AdaptiveAvgPool2d(1))


def absent(folder: Path) -> Any:
    """Several classes per picture, with a metric and a callback from a module that is missing when the learner is loaded."""
    (folder / "authors.py").write_text(
        "from fastai.callback.core import Callback\n\n\ndef metric(*_):\n    return 0\n\n\nclass Counter(Callback):\n    pass\n"
    )
    sys.path.insert(0, str(folder))
    authors = importlib.import_module("authors")

    learner = classify(narrow(), labels="many", metrics=authors.metric, cbs=authors.Counter())(folder)
    learner.gone = ("authors", str(folder))
    return learner


def patched(folder: Path) -> Any:
    """A learner that pads and crops, with a changed forward and loss, a hook, and a torch module that is not in the tables."""
    loaders = images(folder, resize=vision.Resize(SIDE, method="pad"), batch=vision.RandomResizedCropGPU(SIDE))
    learner = vision.vision_learner(loaders, narrow(), pretrained=False, normalize=False)
    learner.model[1][5].forward = torch.relu
    learner.model[1].append(torch.nn.Softsign())
    learner.model[0].register_forward_hook(print)
    learner.loss_func.decodes = torch.argmin
    return learner


squish = vision.Resize((32, 48), method="squish")
VARIANTS: dict[str, Callable[[Path], Any]] = {
    "basic": classify(short(resnet.BasicBlock), bn_final=True, lin_first=True, concat_pool=False, lin_ftrs=[64, 32], ps=0.25),
    "bottleneck": classify(short(resnet.Bottleneck)),
    "xresnet-attention": classify(narrow(sa=True, act_cls=vision.Mish)),
    "xse-resnext18": classify(xresnet.xse_resnext18),
    "alexnet": classify(vision.models.alexnet),
    "squeezenet": classify(vision.squeezenet1_1),
    "densenet": classify(tiny_densenet),
    "grey": classify(narrow(), vision.PILImageBW, n_in=1),
    "absent": absent,
    "unet-attention": segment(narrow(), squish, blur=True, self_attention=True),
    "unet-weight": segment(narrow(), squish, norm_type=NormType.Weight, act_cls=vision.Swish, last_cross=False),
    "unet-binary": segment(narrow(), squish, n_out=1, y_range=(-3, 3), loss_func=vision.BCEWithLogitsLossFlat(axis=1)),
    "unet-unsized": segment(narrow(), norm_type=NormType.Spectral),
    "patched": patched,
}
ASKED = {"unet-unsized": [40, 56]}


def draw(folder: Path) -> None:
    dice = np.random.default_rng(5)
    for kind, shape, most in (("pictures", (40, 56, 3), 256), ("masks", (40, 56), 3)):
        (folder / kind).mkdir(parents=True)
        for number in range(6):
            vision.Image.fromarray(dice.integers(0, most, shape, np.uint8)).save(folder / kind / f"{number}.png")


def stir(model: torch.nn.Module) -> None:
    for module in model.modules():
        for name in ("weight", "bias"):
            value = getattr(module, name, None)
            if value is not None and "Norm" in type(module).__name__:
                value.data.add_(torch.randn_like(value) * 0.1)
        if hasattr(module, "gamma"):
            torch.nn.init.constant_(module.get_parameter("gamma"), 0.3)


def main(folder: Path) -> None:
    torch.manual_seed(3)
    torch.set_num_threads(1)  # another test uses the other CPU
    draw(folder)
    for name, make in VARIANTS.items():
        began = time.monotonic()
        scratch = folder / name
        scratch.mkdir()
        learner = make(folder)
        stir(learner.model)
        with torch.no_grad():  # as a training leaves them: statistics of batches, and spectral norms that have settled
            for _ in range(3):
                learner.model.train()(learner.dls.one_batch()[0])
        learner.export(scratch / "learner.pkl")
        load.STAND_INS.clear()
        if hasattr(learner, "gone"):
            module, place = learner.gone
            sys.path.remove(place)
            del sys.modules[module]
            sys.path_importer_cache.clear()
        description = read.step({"size": ASKED.get(name)}, scratch)
        (scratch / "read.json").write_text(json.dumps({"fenced": False, "unplugged": False, **description}))
        if not description["problems"]:
            text = model_source.model_file(description["network"], name, (description["channels"], *description["size"]), "numbers")
            (scratch / "model.py").write_text(text)
            comparison = verify.step({**description, "mode": "RGB" if description["channels"] == 3 else "L"}, scratch)
            reference = load_file(scratch / read.WEIGHTS)  # the format's reference reader
            actual = verify.tensors(scratch / read.WEIGHTS)
            comparison["same_as_reference"] = (
                all(torch.equal(reference.pop(key), value) for key, value in actual.items()) and not reference
            )
            (scratch / "verify.json").write_text(json.dumps(comparison))
            print(name, comparison, f"{time.monotonic() - began:.1f} s", flush=True)
        for large in (*scratch.glob("*.pkl"), *scratch.glob("*.safetensors"), *scratch.glob("*.pt")):
            large.unlink()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
