"""Runs in the environment that has fastai: trains small learners on generated scenes, exports them, and writes their answers.

python train.py FOLDER          # FOLDER/unet.pkl, FOLDER/classifier.pkl, ..., FOLDER/answers.npz
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fastai.vision import all as vision

sys.path.insert(0, str(Path(__file__).parents[3] / "examples" / "segmentation"))
from scenes import CLASSES, scene

TRAINING, REQUESTS = range(12), range(100, 104)
HEIGHT, WIDTH = 96, 128
PRESIZED_FROM, PRESIZED_TO = 72, 32  # more than twice as large: fastai then shrinks by areas first
NORMALISED = vision.Normalize.from_stats(*vision.imagenet_stats)


def draw(folder: Path) -> None:
    """Write scenes and masks to train on; ask-N.png are the pictures of the requests."""
    for kind in ("scenes", "masks"):
        (folder / kind).mkdir(parents=True)
    for seed in TRAINING:
        picture, classes = scene(seed, HEIGHT, WIDTH)
        picture.save(folder / "scenes" / f"{seed}.png")
        vision.Image.fromarray(classes).save(folder / "masks" / f"{seed}.png")
    for seed in REQUESTS:
        scene(seed, HEIGHT, WIDTH)[0].save(folder / f"ask-{seed}.png")
        scene(seed, HEIGHT, HEIGHT)[0].save(folder / f"square-{seed}.png")


def mask_of(path: Path) -> Path:
    """Return the path of a scene's mask. The exported learner refers to this function."""
    return path.parent.parent / "masks" / path.name


def unet(folder: Path) -> Any:
    """A U-Net on resnet18 with self-attention, at 48x64: squished pictures, augmented and normalised."""
    loaders = vision.SegmentationDataLoaders.from_label_func(
        folder,
        vision.get_image_files(folder / "scenes"),
        mask_of,
        codes=np.array(CLASSES),
        bs=4,
        item_tfms=vision.Resize((48, 64), method="squish"),
        batch_tfms=[*vision.aug_transforms(), NORMALISED],
        num_workers=0,
    )
    learner = vision.unet_learner(loaders, vision.resnet18, pretrained=False, self_attention=True, metrics=vision.foreground_acc)
    fit(learner)
    with torch.no_grad():  # after one epoch the attention has almost no effect, and would not be tested
        next(value for name, value in learner.model.named_parameters() if name.endswith("gamma")).fill_(0.5)
    return learner


def classifier(folder: Path) -> Any:
    """resnet18 with fastai's head: cropped to 72x72, then resized to 32x32 on the batch, as presizing does it."""
    loaders = vision.ImageDataLoaders.from_path_func(
        folder,
        vision.get_image_files(folder / "scenes"),
        lambda path: ("left", "right ", "both")[int(path.stem) % 3],
        bs=4,
        item_tfms=vision.Resize(PRESIZED_FROM),
        batch_tfms=[*vision.aug_transforms(size=PRESIZED_TO), NORMALISED],
        num_workers=0,
    )
    learner = vision.vision_learner(loaders, vision.resnet18, pretrained=False)
    fit(learner)
    with torch.no_grad():  # makes confidences differ clearly; close ones are left out of the sample
        learner.model[1][-1].weight.mul_(5)
    return learner


def fit(learner: Any) -> None:
    with learner.no_bar(), learner.no_logging():
        learner.fit(1, 1e-3)


def answers_of(learner: Any, picture: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the decision of `learn.predict` for a picture, and the network's output."""
    with learner.no_bar():
        decision = learner.predict(picture)[1]
    batch = learner.dls.test_dl([picture], num_workers=0).one_batch()[0]
    with torch.no_grad():
        return np.asarray(decision), np.asarray(learner.model.eval()(batch))


def main(folder: Path) -> None:
    vision.set_seed(7)
    torch.set_num_threads(1)  # another process uses the other CPU
    draw(folder)
    answers: dict[str, np.ndarray] = {}
    for name, make, kind in (("unet", unet, "ask"), ("classifier", classifier, "square")):
        learner = make(folder)
        learner.export(folder / f"{name}.pkl")
        for seed in REQUESTS:
            picture = folder / f"{kind}-{seed}.png"
            answers[f"{name}-{seed}"], answers[f"{name}-{seed}-output"] = answers_of(learner, picture)
            if name == "classifier":
                answers[f"{name}-{seed}-wide"] = np.asarray(learner.predict(folder / f"ask-{seed}.png")[2])
                answers[f"{name}-{seed}-confidences"] = np.asarray(learner.predict(picture)[2])
    np.savez(folder / "answers.npz", allow_pickle=False, **answers)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
