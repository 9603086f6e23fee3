"""A small convolutional network for the 8x8 handwritten digits that scikit-learn ships."""

from torch import Tensor, nn


class Digits(nn.Module):
    """float32 [N, 1, 8, 8], greyscale, 0-1 -> float32 [N, 10] logits."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(2 * width, 2 * width, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.head = nn.Linear(2 * width * 4, 10)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(images).flatten(1))
        return logits


def init_function(width: int = 16) -> Digits:
    """Make the network without weights; torchrelay loads the state_dict into it."""
    return Digits(width)
