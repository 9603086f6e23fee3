"""Trains the network of model.py on scikit-learn's iris and writes model.pt beside this file.

pip install torch scikit-learn
python train.py                    # a second, prints the accuracy on held-out flowers
"""

import argparse
from pathlib import Path

import torch
from model import init_function
from sklearn.datasets import load_iris
from sklearn.model_selection import train_test_split

HERE = Path(__file__).resolve().parent
SEED = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=HERE / "model.pt")
    options = parser.parse_args()
    torch.manual_seed(SEED)
    torch.set_num_threads(1)

    flowers, species = load_iris(return_X_y=True)
    seen, unseen, seen_species, unseen_species = (
        torch.from_numpy(part) for part in train_test_split(flowers, species, test_size=0.2, random_state=SEED, stratify=species)
    )
    model = init_function()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(500):
        optimizer.zero_grad()
        # the network ends in a softmax, so the loss is the negative logarithm of the correct species' probability
        loss = -model(seen.float()).gather(1, seen_species[:, None]).log().mean()
        loss.backward()
        optimizer.step()
    with torch.inference_mode():
        right = model(unseen.float()).argmax(1) == unseen_species
    print(f"accuracy {right.float().mean():.4f} on {len(right)} flowers never trained on")
    torch.save(model.state_dict(), options.output)


if __name__ == "__main__":
    main()
