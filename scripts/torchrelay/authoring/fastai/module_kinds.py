"""The modules that a network can contain: the place of each class, its relevant attributes, and how model.py writes it.

Both sides of the sandbox import this, so it needs only the standard library.
"""

from __future__ import annotations

from dataclasses import dataclass, field

SIZE = "size"  # an integer, or a list of at most three
COUNT = "count"
NUMBER = "number"
FLAG = "flag"
WORD = "word"
REQUIRED = object()


@dataclass(frozen=True)
class Arg:
    """One attribute of a module: `default` is left out of model.py; `only` are the allowed words or values."""

    what: str
    default: object = REQUIRED
    only: tuple[object, ...] = ()


@dataclass(frozen=True)
class Kind:
    """One kind of module. `parts`: the names of the modules in it; a trailing ? marks an optional one.

    `needs_start`: its forward also takes the input of its sequence.
    """

    written: str
    classes: tuple[str, ...]
    args: dict[str, Arg] = field(default_factory=dict)
    parts: tuple[str, ...] = ()
    needs_start: bool = False


_INPLACE = {"inplace": Arg(FLAG, default=False)}
_BATCH = {
    "num_features": Arg(COUNT),
    "eps": Arg(NUMBER, 1e-05),
    "momentum": Arg(NUMBER, 0.1),
    "affine": Arg(FLAG, default=True),
    "track_running_stats": Arg(FLAG, default=True),
}
_INSTANCE = {
    **_BATCH,
    "affine": Arg(FLAG, default=False),
    "track_running_stats": Arg(FLAG, default=False),
}
_CONV = {
    "in_channels": Arg(COUNT),
    "out_channels": Arg(COUNT),
    "kernel_size": Arg(SIZE),
    "stride": Arg(SIZE, 1),
    "padding": Arg(SIZE, 0),
    "dilation": Arg(SIZE, 1),
    "groups": Arg(COUNT, 1),
    "bias": Arg(FLAG, default=True),
    "padding_mode": Arg(WORD, "zeros", ("zeros", "reflect", "replicate", "circular")),
}
_DROP = {"p": Arg(NUMBER, 0.5)}


def _nn(module: str, name: str, **args: Arg) -> Kind:
    return Kind(f"nn.{name}", (f"torch.nn.modules.{module}.{name}",), args)


KINDS: dict[str, Kind] = {
    "Conv1d": _nn("conv", "Conv1d", **_CONV),
    "Conv2d": _nn("conv", "Conv2d", **_CONV),
    "Linear": _nn("linear", "Linear", in_features=Arg(COUNT), out_features=Arg(COUNT), bias=Arg(FLAG, default=True)),
    "BatchNorm1d": _nn("batchnorm", "BatchNorm1d", **_BATCH),
    "BatchNorm2d": _nn("batchnorm", "BatchNorm2d", **_BATCH),
    "InstanceNorm2d": _nn("instancenorm", "InstanceNorm2d", **_INSTANCE),
    "ReLU": _nn("activation", "ReLU", **_INPLACE),
    "ReLU6": _nn("activation", "ReLU6", **_INPLACE),
    "LeakyReLU": _nn("activation", "LeakyReLU", negative_slope=Arg(NUMBER, 0.01), **_INPLACE),
    "ELU": _nn("activation", "ELU", alpha=Arg(NUMBER, 1.0), **_INPLACE),
    "SiLU": _nn("activation", "SiLU", **_INPLACE),
    "Mish": _nn("activation", "Mish", **_INPLACE),
    "Hardswish": _nn("activation", "Hardswish", **_INPLACE),
    "GELU": _nn("activation", "GELU", approximate=Arg(WORD, "none", ("none", "tanh"))),
    "Sigmoid": _nn("activation", "Sigmoid"),
    "Tanh": _nn("activation", "Tanh"),
    "Dropout": _nn("dropout", "Dropout", **_DROP, **_INPLACE),
    "Dropout2d": _nn("dropout", "Dropout2d", **_DROP, **_INPLACE),
    "Identity": Kind("nn.Identity", ("torch.nn.modules.linear.Identity", "fastai.layers.Identity", "fastai.layers.ToTensorBase")),
    "Flatten": Kind("nn.Flatten", ("fastai.layers.Flatten",)),
    "MaxPool2d": _nn(
        "pooling",
        "MaxPool2d",
        kernel_size=Arg(SIZE),
        stride=Arg(SIZE),
        padding=Arg(SIZE, 0),
        dilation=Arg(SIZE, 1),
        ceil_mode=Arg(FLAG, default=False),
    ),
    "AvgPool2d": _nn(
        "pooling",
        "AvgPool2d",
        kernel_size=Arg(SIZE),
        stride=Arg(SIZE),
        padding=Arg(SIZE, 0),
        ceil_mode=Arg(FLAG, default=False),
        count_include_pad=Arg(FLAG, default=True),
    ),
    "AdaptiveAvgPool2d": _nn("pooling", "AdaptiveAvgPool2d", output_size=Arg(SIZE)),
    "AdaptiveMaxPool2d": _nn("pooling", "AdaptiveMaxPool2d", output_size=Arg(SIZE)),
    "PixelShuffle": _nn("pixelshuffle", "PixelShuffle", upscale_factor=Arg(COUNT)),
    "ReplicationPad2d": _nn("padding", "ReplicationPad2d", padding=Arg(SIZE)),
    "AdaptiveConcatPool2d": Kind("ConcatPool", ("fastai.layers.AdaptiveConcatPool2d",), {"size": Arg(SIZE, 1)}),
    "SigmoidRange": Kind("SigmoidRange", ("fastai.layers.SigmoidRange",), {"low": Arg(NUMBER), "high": Arg(NUMBER)}),
    "ResBlock": Kind("ResBlock", ("fastai.layers.ResBlock",), parts=("convpath", "idpath", "act")),
    "SelfAttention": Kind("SelfAttention", ("fastai.layers.SelfAttention",), parts=("query", "key", "value")),
    "SimpleSelfAttention": Kind(
        "SimpleSelfAttention", ("fastai.layers.SimpleSelfAttention",), {"sym": Arg(FLAG, False, (False,))}, ("conv",)
    ),
    "BasicBlock": Kind(
        "BasicBlock",
        ("torchvision.models.resnet.BasicBlock",),
        parts=("conv1", "bn1", "relu", "conv2", "bn2", "downsample?"),
    ),
    "Bottleneck": Kind(
        "Bottleneck",
        ("torchvision.models.resnet.Bottleneck",),
        parts=("conv1", "bn1", "conv2", "bn2", "conv3", "bn3", "relu", "downsample?"),
    ),
    "Fire": Kind(
        "Fire",
        ("torchvision.models.squeezenet.Fire",),
        parts=("squeeze", "squeeze_activation", "expand1x1", "expand1x1_activation", "expand3x3", "expand3x3_activation"),
    ),
    "DenseLayer": Kind(
        "DenseLayer",
        ("torchvision.models.densenet._DenseLayer",),
        parts=("norm1", "relu1", "conv1", "norm2", "relu2", "conv2"),
    ),
    "UnetBlock": Kind("UnetBlock", ("fastai.vision.models.unet.UnetBlock",), parts=("shuf", "bn", "conv1", "conv2", "relu")),
    "MergeLayer": Kind("Merge", ("fastai.layers.MergeLayer",), {"dense": Arg(FLAG, default=False)}, needs_start=True),
    "ProdLayer": Kind("Product", ("fastai.layers.ProdLayer",), needs_start=True),
    "ResizeToOrig": Kind(
        "ResizeToStart",
        ("fastai.vision.models.unet.ResizeToOrig",),
        {"mode": Arg(WORD, "nearest", ("nearest", "bilinear", "bicubic", "area"))},
        needs_start=True,
    ),
}
"""Modules with attributes, by their name in the description."""

# Modules that hold any number of others; the description has their names in order.
SEQUENCE = "Sequential"  # torch.nn.Sequential and subclasses that do not override forward
STARTED = "SequentialEx"  # fastai.layers.SequentialEx: its input is passed along
UNET = "DynamicUnet"  # a SequentialEx whose first part, the encoder, is joined with later parts
DENSE = "DenseBlock"  # torchvision's: every layer gets the outputs of all layers before it
PRESIZED = "Presized"  # pictures are resized in the network, as fastai did it on the batch
HOLDERS = {
    STARTED: "fastai.layers.SequentialEx",
    UNET: "fastai.vision.models.unet.DynamicUnet",
    DENSE: "torchvision.models.densenet._DenseBlock",
}

LOSSES = {
    "fastai.losses.CrossEntropyLossFlat": "softmax",
    "fastai.losses.FocalLossFlat": "softmax",
    "fastai.losses.LabelSmoothingCrossEntropyFlat": "softmax",
    "fastai.losses.LabelSmoothingCrossEntropy": "softmax",
    "fastai.losses.DiceLoss": "softmax",
    "fastai.losses.BCEWithLogitsLossFlat": "sigmoid",
}
"""Loss functions by class, and the activation that each implies."""

SUPPORTED = (
    "vision_learner over resnet, xresnet, vgg, alexnet, squeezenet and densenet bodies with heads of create_head, "
    "and unet_learner (DynamicUnet) over the same bodies"
)


def by_class() -> dict[str, str]:
    """Return the kind of each class, by the class's module and name."""
    return {path: name for name, kind in KINDS.items() for path in kind.classes}
