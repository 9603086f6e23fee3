"""Trains the network of model.py on generated street scenes and writes model.pt and the samples' pictures beside this file.

    pip install torch numpy pillow
    python train.py                    # a few minutes on one core, prints the accuracy on unseen scenes

The seed is fixed: the same torch version on the same kind of CPU gives the same weights.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from model import UNet, init_function
from PIL import Image
from scenes import CLASSES, scene
from torch import Tensor, nn

HERE = Path(__file__).resolve().parent
SEED = 20
HEIGHT, WIDTH = 96, 128
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
UNSEEN = 100_000  # the first seed of the scenes that are not used in training


def batch_of(seeds: range) -> tuple[Tensor, Tensor]:
    """Return the same input as the image-segmenter handler, float32 [N, 3, 96, 128], and int64 [N, 96, 128] classes."""
    scenes = [scene(seed, HEIGHT, WIDTH) for seed in seeds]
    pictures = torch.from_numpy(np.stack([np.asarray(picture) for picture, _ in scenes])).permute(0, 3, 1, 2).float() / 255
    normal = (pictures - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)
    return normal, torch.from_numpy(np.stack([classes for _, classes in scenes])).long()


def train(steps: int, size: int) -> UNet:
    model = init_function().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    for step in range(steps):
        pictures, classes = batch_of(range(step * size, (step + 1) * size))
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(pictures), classes).backward()
        optimizer.step()
        schedule.step()
    return model.eval()


def accuracy_of(model: UNet, count: int) -> tuple[float, list[float]]:
    """Return the share of correct pixels, and the intersection over union of each class, on `count` unseen scenes."""
    pictures, classes = batch_of(range(UNSEEN, UNSEEN + count))
    with torch.inference_mode():
        output = torch.cat([model(part).argmax(1) for part in pictures.split(16)])
    unions = [
        ((output == one) & (classes == one)).sum() / ((output == one) | (classes == one)).sum() for one in range(len(CLASSES))
    ]
    return float((output == classes).float().mean()), [float(union) for union in unions]


def write_samples(folder: Path) -> None:
    """Write three unseen scenes, one of them larger than the network's input, and one truncated picture."""
    folder.mkdir(exist_ok=True)
    for file, seed, height, width in (("street.png", 0, 96, 128), ("crossing.jpg", 1, 96, 128), ("large.jpg", 2, 240, 320)):
        picture: Image.Image = scene(UNSEEN + seed, height, width)[0]
        picture.save(folder / file, quality=90)
    whole = (folder / "crossing.jpg").read_bytes()
    (folder / "truncated.jpg").write_bytes(whole[: len(whole) // 2])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=240)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--output", type=Path, default=HERE / "model.pt")
    options = parser.parse_args()
    torch.manual_seed(SEED)
    torch.set_num_threads(1)  # always the same order of additions, so the same result
    torch.use_deterministic_algorithms(True)

    model = train(options.steps, options.batch)
    right, unions = accuracy_of(model, 64)
    print(f"{right:.4f} of the pixels of 64 unseen scenes; intersection over union:")
    print(", ".join(f"{name} {union:.3f}" for name, union in zip(CLASSES, unions, strict=True)))
    torch.save(model.state_dict(), options.output)
    write_samples(HERE / "samples")


if __name__ == "__main__":
    main()
