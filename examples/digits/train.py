"""Trains the network of model.py on scikit-learn's digits and writes model.pt and the samples' images beside this file.

    pip install torch scikit-learn pillow
    python train.py                    # seconds on one core, prints the accuracy on held-out digits

The seed is fixed: the same torch version on the same kind of CPU gives the same weights.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from model import Digits, init_function
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

HERE = Path(__file__).resolve().parent
SEED = 20
NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


def load() -> tuple[np.ndarray, np.ndarray]:
    """Return uint8 [1797, 8, 8] as in a PNG (the data set's values are 0 to 16), and int64 [1797] labels."""
    images, labels = load_digits(return_X_y=True)
    return np.rint(images.reshape(-1, 8, 8) * 255 / 16).astype(np.uint8), labels.astype(np.int64)


def as_batch(images: np.ndarray) -> Tensor:
    """Return the same input as the image-classifier handler: float32 [N, 1, 8, 8], 0-1."""
    return torch.from_numpy(images).unsqueeze(1).float() / 255


def shifted(batch: Tensor, generator: torch.Generator) -> Tensor:
    """Move each picture by up to one pixel, so that the network does not learn exact positions."""
    padded = nn.functional.pad(batch, (1, 1, 1, 1))
    moves = torch.randint(0, 3, (len(batch), 2), generator=generator).tolist()
    return torch.stack([picture[:, y : y + 8, x : x + 8] for picture, (y, x) in zip(padded, moves, strict=True)])


def train(images: Tensor, labels: Tensor, epochs: int) -> Digits:
    generator = torch.Generator().manual_seed(SEED)
    model = init_function().train()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for _ in range(epochs):
        for rows in torch.randperm(len(images), generator=generator).split(64):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(shifted(images[rows], generator)), labels[rows])
            loss.backward()
            optimizer.step()
        schedule.step()
    return model.eval()


def write_samples(images: np.ndarray, labels: np.ndarray, right: np.ndarray, folder: Path) -> None:
    """Write, for four digits, the first held-out picture that was recognised, and one truncated picture."""
    folder.mkdir(exist_ok=True)
    for digit in (0, 3, 7, 9):
        Image.fromarray(images[right & (labels == digit)][0]).save(folder / f"{NAMES[digit]}.png", optimize=True)
    whole = (folder / "three.png").read_bytes()
    (folder / "truncated.png").write_bytes(whole[: len(whole) // 2])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--output", type=Path, default=HERE / "model.pt")
    options = parser.parse_args()
    torch.manual_seed(SEED)
    torch.set_num_threads(1)  # always the same order of additions, so the same result
    torch.use_deterministic_algorithms(True)

    images, labels = load()
    seen, unseen, seen_labels, unseen_labels = train_test_split(images, labels, test_size=0.2, random_state=SEED, stratify=labels)
    model = train(as_batch(seen), torch.from_numpy(seen_labels), options.epochs)
    with torch.inference_mode():
        right = model(as_batch(unseen)).argmax(1) == torch.from_numpy(unseen_labels)
    print(f"accuracy {right.float().mean():.4f} on {len(right)} digits never trained on")
    torch.save(model.state_dict(), options.output)
    write_samples(unseen, unseen_labels, right.numpy(), HERE / "samples")


if __name__ == "__main__":
    main()
