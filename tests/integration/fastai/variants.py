"""Run in the environment that has fastai: many kinds of learners, untrained, through both steps without the sandbox.

    python variants.py FOLDER          # FOLDER/NAME/read.json and prove.json, beside what the steps write

Every normalisation is given numbers as after a training, so that no part of a network is passed over by being zero.
"""

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

ROOT = Path(__file__).parents[3]
sys.path.insert(0, str(ROOT / "scripts"))
sys.path.insert(0, str(ROOT / "handlers"))
from torchrelay.fastai import source  # noqa: E402 -- found by the lines above: torchrelay is not installed in this environment
from torchrelay.fastai.inside import load, prove, read  # noqa: E402 -- the same

SIDE = 64
CLASSES = ["one", "two", "three"]


def images(folder: Path, cls: Any = vision.PILImage, resize: Any = None, labels: str = "one") -> Any:
    """Loaders of noise: a class, several classes or a mask for each picture."""
    blocks = {
        "one": (vision.CategoryBlock(vocab=CLASSES), lambda path: CLASSES[int(path.stem) % 3]),
        "many": (vision.MultiCategoryBlock(vocab=CLASSES), lambda path: CLASSES[: int(path.stem) % 3]),
        "mask": (vision.MaskBlock(codes=np.array(CLASSES)), lambda path: path.parent.parent / "masks" / path.name),
    }
    block = vision.DataBlock(
        blocks=(vision.ImageBlock(cls), blocks[labels][0]),
        get_items=vision.get_image_files,
        get_y=blocks[labels][1],
        item_tfms=[resize] if resize is not None else [],
        batch_tfms=[vision.Normalize.from_stats([0.4, 0.5, 0.6], [0.3, 0.2, 0.25])] if cls is vision.PILImage else [],
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


def patched(folder: Path) -> Any:
    """A learner with a forward of its own on one module, a loss of its own and a part of torch's that is not known."""
    learner = classify(vision.resnet18)(folder)
    learner.model[1][5].forward = torch.relu
    learner.model[1].append(torch.nn.Softsign())
    learner.model[0].register_forward_hook(print)
    learner.loss_func.decodes = torch.argmin
    return learner


squish = vision.Resize((32, 48), method="squish")
VARIANTS: dict[str, Callable[[Path], Any]] = {
    "resnet34-head": classify(vision.resnet34, bn_final=True, lin_first=True, concat_pool=False, lin_ftrs=[64, 32], ps=0.25),
    "resnet50": classify(vision.resnet50),
    "xresnet18-attention": classify(partial(xresnet.xresnet18, sa=True, act_cls=vision.Mish)),
    "xse-resnext18": classify(xresnet.xse_resnext18),
    "vgg11-bn": classify(vision.models.vgg11_bn),
    "alexnet": classify(vision.models.alexnet),
    "squeezenet": classify(vision.squeezenet1_1),
    "densenet121": classify(vision.densenet121),
    "grey": classify(vision.resnet18, vision.PILImageBW, n_in=1),
    "many": classify(vision.resnet18, labels="many"),
    "unet-xresnet18": segment(xresnet.xresnet18, squish, blur=True, self_attention=True),
    "unet-weight": segment(vision.resnet18, squish, norm_type=NormType.Weight, act_cls=vision.Swish, last_cross=False),
    "unet-binary": segment(vision.resnet18, squish, n_out=1, y_range=(-3, 3), loss_func=vision.BCEWithLogitsLossFlat(axis=1)),
    "unet-unsized": segment(vision.resnet18, norm_type=NormType.Spectral),
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
    torch.set_num_threads(1)  # another test's process has the other CPU
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
        found = read.step({"size": ASKED.get(name)}, scratch)
        (scratch / "read.json").write_text(json.dumps({"fenced": False, "unplugged": False, **found}))
        if not found["problems"]:
            text = source.model_file(found["network"], name, (found["channels"], *found["size"]), "numbers")
            (scratch / "model.py").write_text(text)
            proof = prove.step({**found, "mode": "RGB" if found["channels"] == 3 else "L"}, scratch)
            reference = load_file(scratch / read.WEIGHTS)  # the format's own reader
            ours = prove.tensors(scratch / read.WEIGHTS)
            proof["same_as_reference"] = (
                all(torch.equal(reference.pop(key), value) for key, value in ours.items()) and not reference
            )
            (scratch / "prove.json").write_text(json.dumps(proof))
            print(name, proof, f"{time.monotonic() - began:.1f} s", flush=True)
        for large in (*scratch.glob("*.pkl"), *scratch.glob("*.safetensors"), *scratch.glob("*.pt")):
            large.unlink()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
