"""The networks of all servers: torchrelay's model_file, and imported by each peer's app.

mlp: float32 [N, 512] -> [N, 10], 4,993,410 parameters. tiny: float32 [N, 10] -> [N, 2]. image: float32 [N, 3, 224, 224] -> [N,
10] logits, a ResNet-18 of half its width (He et al. 2015, https://arxiv.org/abs/1512.03385, table 1): about a quarter of its
multiplications.
"""

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
        self.shortcut = nn.Identity() if inputs == outputs and stride == 1 else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first_norm(self.first(x)).relu()
        summed: Tensor = self.second_norm(self.second(y)) + self.shortcut(x)
        return summed.relu()


class Pictures(nn.Module):
    """The network of the workload image; see the top of the file."""

    def __init__(self, width: int = 32, classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 7, 2, padding=3, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.pool = nn.MaxPool2d(3, 2, padding=1)
        blocks: list[nn.Module] = []
        for level, (before, size) in enumerate(itertools.pairwise([width, width, 2 * width, 4 * width, 8 * width])):
            blocks += [Block(before, size, stride=2 if level else 1), Block(size, size, stride=1)]
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(8 * width, classes)

    def forward(self, pictures: Tensor) -> Tensor:
        logits: Tensor = self.head(self.blocks(self.pool(self.norm(self.stem(pictures)).relu())).mean((2, 3)))
        return logits


def init_function(workload: str) -> nn.Module:
    """Make the network of a workload: mlp, tiny or image."""
    if workload == "image":
        return Pictures()
    if workload == "tiny":
        return nn.Linear(10, 2)
    sizes = [512, 1600, 1600, 1000]
    layers = [layer for pair in itertools.pairwise(sizes) for layer in (nn.Linear(*pair), nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], 10))
