"""Trains the network of handler.py on scikit-learn's digits, 8x8 scaled up to 32x32, and writes model.pt and the samples' pictures.

    pip install torch scikit-learn pillow
    python train.py                    # a few minutes on one core, prints the accuracy on held-out digits

The seed is fixed: the same torch version on the same kind of CPU gives the same weights.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "handlers"))  # handler.py imports the library; in an archive it is in the same folder

from handler import CATEGORIES, init_function, preprocess  # noqa: E402 -- needs the line above
from model import ResNet  # noqa: E402 -- needs the same line

SEED = 20


def load() -> tuple[list[Image.Image], np.ndarray]:
    """Return 1797 greyscale pictures of 32x32, and int64 [1797] labels; the data set's values are 0 to 16."""
    images, labels = load_digits(return_X_y=True)
    pixels = np.rint(images.reshape(-1, 8, 8) * 255 / 16).astype(np.uint8)
    return [Image.fromarray(one).resize((32, 32), Image.Resampling.BICUBIC) for one in pixels], labels.astype(np.int64)


def shifted(batch: Tensor, generator: torch.Generator) -> Tensor:
    """Move each picture by up to three pixels, so that the network does not learn exact positions."""
    padded = nn.functional.pad(batch, (3, 3, 3, 3), value=-1.0)
    moves = torch.randint(0, 7, (len(batch), 2), generator=generator).tolist()
    return torch.stack([picture[:, y : y + 32, x : x + 32] for picture, (y, x) in zip(padded, moves, strict=True)])


def train(images: Tensor, labels: Tensor, epochs: int) -> ResNet:
    generator = torch.Generator().manual_seed(SEED)
    model = init_function().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=epochs * -(-len(images) // 64))
    for _ in range(epochs):
        for rows in torch.randperm(len(images), generator=generator).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(shifted(images[rows], generator)), labels[rows]).backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def write_samples(pictures: list[Image.Image], labels: np.ndarray, right: np.ndarray, folder: Path) -> None:
    """Write, for three digits, the first held-out picture that was recognised, and one truncated picture."""
    folder.mkdir(exist_ok=True)
    for digit in (2, 5, 8):
        pictures[np.flatnonzero(right & (labels == digit))[0]].save(folder / f"{CATEGORIES[digit]}.png", optimize=True)
    whole = (folder / "two.png").read_bytes()
    (folder / "truncated.png").write_bytes(whole[: len(whole) // 2])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--output", type=Path, default=HERE / "model.pt")
    options = parser.parse_args()
    torch.manual_seed(SEED)
    torch.set_num_threads(1)  # always the same order of additions, so the same result
    torch.use_deterministic_algorithms(True)

    pictures, labels = load()
    rows = np.arange(len(labels))
    seen, unseen = train_test_split(rows, test_size=0.2, random_state=SEED, stratify=labels)
    batch = torch.stack([preprocess(picture) for picture in pictures])
    model = train(batch[torch.from_numpy(seen)], torch.from_numpy(labels[seen]), options.epochs)
    with torch.inference_mode():
        told = model(batch[torch.from_numpy(unseen)]).argmax(1).numpy()
    right = told == labels[unseen]
    print(f"accuracy {right.mean():.4f} on {len(right)} digits never trained on")
    torch.save(model.state_dict(), options.output)
    write_samples([pictures[row] for row in unseen], labels[unseen], right, HERE / "samples")


if __name__ == "__main__":
    main()
