"""A small residual network, after He et al. 2015 for small pictures (https://arxiv.org/abs/1512.03385, section 4.2)."""

import itertools

from torch import Tensor, nn


class Block(nn.Module):
    """[N, inputs, H, W] -> [N, outputs, H / stride, W / stride]: two convolutions and a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(outputs)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(outputs)
        same = inputs == outputs and stride == 1
        self.beside = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first_norm(self.first(x)).relu()
        return (self.second_norm(self.second(y)) + self.beside(x)).relu()


class ResNet(nn.Module):
    """float32 [N, 1, 32, 32] greyscale -> float32 [N, 10] logits; `layers` is 8, 14 or 20 (6 n + 2)."""

    def __init__(self, layers: int, width: int = 16) -> None:
        super().__init__()
        if layers < 8 or layers % 6 != 2:
            raise ValueError(f"a network of {layers} layers cannot be made: 8, 14, 20 and so on can")
        self.stem = nn.Conv2d(1, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        sizes = [width, width, 2 * width, 4 * width]
        blocks: list[nn.Module] = []
        for level, (before, size) in enumerate(itertools.pairwise(sizes)):
            blocks += [Block(before, size, stride=2 if level else 1)]
            blocks += [Block(size, size, stride=1) for _ in range((layers - 2) // 6 - 1)]
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(sizes[-1], 10)

    def forward(self, pictures: Tensor) -> Tensor:
        logits: Tensor = self.head(self.blocks(self.norm(self.stem(pictures)).relu()).mean((2, 3)))
        return logits
