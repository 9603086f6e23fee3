"""The classes that model.py defines because torch has none like them; only the ones that its network uses are written."""

PARTS: dict[str, str] = {
    "Parts": '''
class Parts(nn.Module):
    """Modules with the names that the weights use; None for one that is left out."""

    def __init__(self, **parts: nn.Module | None) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)
''',
    "BasicBlock": '''
class BasicBlock(Parts):
    """Two convolutions and a shortcut."""

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(x + shortcut)
''',
    "Bottleneck": '''
class Bottleneck(Parts):
    """Three convolutions, the middle one on fewer channels, and a shortcut."""

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        return self.relu(self.bn3(self.conv3(x)) + shortcut)
''',
    "Fire": '''
class Fire(Parts):
    """A narrow convolution, then two wide ones side by side."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.squeeze_activation(self.squeeze(x))
        return torch.cat([self.expand1x1_activation(self.expand1x1(x)), self.expand3x3_activation(self.expand3x3(x))], 1)
''',
    "DenseLayer": '''
class DenseLayer(Parts):
    """Two convolutions over the outputs of all layers before."""

    def forward(self, x: list[Tensor]) -> Tensor:
        y = self.conv1(self.relu1(self.norm1(torch.cat(x, 1))))
        return self.conv2(self.relu2(self.norm2(y)))
''',
    "DenseBlock": '''
class DenseBlock(Parts):
    """Layers that each get the outputs of all layers before."""

    def forward(self, x: Tensor) -> Tensor:
        outputs = [x]
        for layer in self.children():
            outputs.append(layer(outputs))
        return torch.cat(outputs, 1)
''',
    "ResBlock": '''
class ResBlock(Parts):
    """A path of convolutions plus a shortcut."""

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.convpath(x) + self.idpath(x))
''',
    "ConcatPool": '''
class ConcatPool(nn.Module):
    """[N, C, H, W] -> [N, 2 C, size, size]: the maxima, then the means."""

    def __init__(self, size: int | tuple[int, int] = 1) -> None:
        super().__init__()
        self.ap = nn.AdaptiveAvgPool2d(size)
        self.mp = nn.AdaptiveMaxPool2d(size)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.mp(x), self.ap(x)], 1)
''',
    "SigmoidRange": '''
class SigmoidRange(nn.Module):
    """Map any number to one between `low` and `high`."""

    def __init__(self, low: float, high: float) -> None:
        super().__init__()
        self.low, self.high = low, high

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(x) * (self.high - self.low) + self.low
''',
    "SelfAttention": '''
class SelfAttention(Parts):
    """Attention between pixels. The weights of its convolutions are already divided by their spectral norm."""

    def __init__(self, **parts: nn.Module | None) -> None:
        super().__init__(**parts)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(2)
        shares = torch.bmm(self.query(flat).transpose(1, 2), self.key(flat)).softmax(1)
        return (self.gamma * torch.bmm(self.value(flat), shares) + flat).view(x.shape)
''',
    "SimpleSelfAttention": '''
class SimpleSelfAttention(Parts):
    """Attention between channels. The weight of its convolution is already divided by its spectral norm."""

    def __init__(self, **parts: nn.Module | None) -> None:
        super().__init__(**parts)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(2)
        attended = torch.bmm(torch.bmm(flat, flat.transpose(1, 2)), self.conv(flat))
        return (self.gamma * attended + flat).view(x.shape)
''',
    "FromStart": '''
class FromStart(nn.Module):
    """A module that also takes the input of its sequence."""
''',
    "Merge": '''
class Merge(FromStart):
    """Adds the input of the sequence; `dense`: as separate channels."""

    def __init__(self, dense: bool = False) -> None:
        super().__init__()
        self.dense = dense

    def forward(self, x: Tensor, start: Tensor) -> Tensor:
        return torch.cat([x, start], 1) if self.dense else x + start
''',
    "Product": '''
class Product(FromStart):
    """Multiplies with the input of the sequence."""

    def forward(self, x: Tensor, start: Tensor) -> Tensor:
        return x * start
''',
    "ResizeToStart": '''
class ResizeToStart(FromStart):
    """Resizes to the height and width of the sequence's input."""

    def __init__(self, mode: str = "nearest") -> None:
        super().__init__()
        self.mode = mode

    def forward(self, x: Tensor, start: Tensor) -> Tensor:
        return x if x.shape[-2:] == start.shape[-2:] else F.interpolate(x, start.shape[-2:], mode=self.mode)
''',
    "SequentialEx": '''
class SequentialEx(nn.Module):
    """Layers in sequence; some also take the input of the sequence."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        start = x
        for layer in self.layers:
            x = layer(x, start) if isinstance(layer, FromStart) else layer(x)
        return x
''',
    "UnetBlock": '''
class UnetBlock(Parts):
    """Doubles height and width, and joins the encoder's output of that size."""

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        x = self.shuf(x)
        if x.shape[-2:] != skip.shape[-2:]:
            x = F.interpolate(x, skip.shape[-2:], mode="nearest")
        return self.conv2(self.conv1(self.relu(torch.cat([x, self.bn(skip)], 1))))
''',
    "DynamicUnet": '''
class DynamicUnet(nn.Module):
    """An encoder, and blocks that each join one of its outputs: `skips` are the numbers of the encoder's parts, block by block."""

    def __init__(self, skips: list[int], *layers: nn.Module) -> None:
        super().__init__()
        self.skips = skips
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        start, outputs = x, {}
        encoder, *rest = self.layers
        for number, part in enumerate(encoder.children()):
            x = part(x)
            if number in self.skips:
                outputs[number] = x
        skips = iter(self.skips)
        for layer in rest:
            if isinstance(layer, UnetBlock):
                x = layer(x, outputs[next(skips)])
            else:
                x = layer(x, start) if isinstance(layer, FromStart) else layer(x)
        return x
''',
    "Presized": '''
class Presized(nn.Module):
    """Resizes pictures as fastai resizes batches: bilinearly, and first by areas if they shrink to less than half."""

    def __init__(self, size: tuple[int, int], network: nn.Module) -> None:
        super().__init__()
        self.size = size
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-2:] != self.size:
            shrink = min(x.shape[-2] / self.size[0], x.shape[-1] / self.size[1]) / 2
            if shrink > 1:
                x = F.interpolate(x, scale_factor=1 / shrink, mode="area", recompute_scale_factor=True)
            x = F.interpolate(x, self.size, mode="bilinear", align_corners=True)
        return self.network(x)
''',
}
"""By name, each after the classes that it needs: the order in which they are written."""

NEEDS: dict[str, tuple[str, ...]] = {
    **{name: ("Parts",) for name, text in PARTS.items() if "(Parts)" in text},
    **{name: ("FromStart",) for name, text in PARTS.items() if "(FromStart)" in text},
    "SequentialEx": ("FromStart",),
    "DynamicUnet": ("FromStart", "UnetBlock"),
}
"""The other classes that a class needs."""


def with_needs(used: set[str]) -> list[str]:
    """Return `used` and all classes that they need, in an order in which they can be defined."""
    needed = set(used)
    for name in used:
        for need in NEEDS.get(name, ()):
            needed |= {need, *NEEDS.get(need, ())}
    return [name for name in PARTS if name in needed]
