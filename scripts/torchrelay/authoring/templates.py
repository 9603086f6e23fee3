"""The texts and files that `init` writes into a new model directory."""

import io
import math
import struct
import zipfile
import zlib

MODEL_YAML = """\
# yaml-language-server: $schema={schema}
name: {name}
weights: {weights}{weights_note}
handler: {handler}
{handler_args}model_file: model.py          # init_function makes the network; the weights are loaded into it
samples: samples             # requests and the answers that the model must give before it serves
device: {device}
batch: {{size: 8, delay_ms: 1}}
resources: {{cpu: 1, memory: 2Gi}}
targets:
  docker: {{port: 8080}}
"""

TENSOR_ARGS = """\
handler_args:
  shape: [4]                 # the shape of one sample, without the batch
  dtype: float32
"""

IMAGE_ARGS = """\
handler_args:
  classes: {classes}
  size: 8                    # height and width of the network's input, in pixels
  mode: RGB
"""

TENSOR_MODEL = '''\
"""An example network: one linear layer. Replace it with your own."""

import torch


class Network(torch.nn.Module):
    """float32 [N, 4] -> float32 [N, 2]."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = torch.nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x)


def init_function() -> Network:
    """Make the network; the weights are loaded into it afterwards."""
    return Network()
'''

IMAGE_MODEL = '''\
"""An example network: one linear layer over the pixels. Replace it with your own."""

import torch


class Network(torch.nn.Module):
    """float32 [N, 3, 8, 8], RGB, 0-1 -> float32 [N, {count}], one score per class."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = torch.nn.Linear(3 * 8 * 8, {count})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x.flatten(1))


def init_function() -> Network:
    """Make the network; the weights are loaded into it afterwards."""
    return Network()
'''

HANDLER = '''\
"""Turns one request into the network's input, and one output into the answer."""

import torch
from model import init_function
from torchrelay_handlers import BadSample, handler_factory


def preprocess(sample: object) -> torch.Tensor:
    """A JSON list of 4 numbers -> float32 [4]."""
    try:
        tensor = torch.tensor(sample, dtype=torch.float32)
    except (TypeError, ValueError) as error:
        raise BadSample("expected a JSON list of 4 numbers") from error
    if tensor.shape != (4,):
        raise BadSample(f"expected 4 numbers, got shape {list(tensor.shape)}")
    return tensor


def postprocess(output: torch.Tensor) -> list[float]:
    """float32 [2] -> a JSON list of 2 numbers."""
    return output.tolist()


handler = handler_factory(init_function, preprocess_function=preprocess, postprocess_function=postprocess)
'''

GITIGNORE = ".torchrelay/\n__pycache__/\n"


def state_dict(tensors: dict[str, tuple[list[int], list[float]]]) -> bytes:
    """Return float32 tensors, each a shape and its numbers, as torch.save (2.x) writes a state_dict and `weights_only` reads it.

    Written without torch, so that `init` does not need it and always writes the same bytes.
    """
    pickled = b"\x80\x02" + _ORDERED_DICT + b"("
    entries = {"byteorder": b"little", "version": b"3\n"}
    for key, (name, (shape, numbers)) in enumerate(tensors.items()):
        strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
        storage = b"(" + _text("storage") + b"ctorch\nFloatStorage\n" + _text(str(key)) + _text("cpu") + _int(len(numbers)) + b"tQ"
        pickled += _text(name) + b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + _int(0) + _ints(shape) + _ints(strides)
        pickled += b"\x89" + _ORDERED_DICT + b"tR"
        entries[f"data/{key}"] = struct.pack(f"<{len(numbers)}f", *numbers)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, content in {"data.pkl": pickled + b"u.", **entries}.items():
            archive.writestr(zipfile.ZipInfo(f"model/{name}"), content)
    return buffer.getvalue()


# The opcodes of pickle protocol 2 (https://docs.python.org/3/library/pickletools.html) that a state_dict needs.
_ORDERED_DICT = b"ccollections\nOrderedDict\n)R"


def _text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def _int(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def _ints(values: list[int]) -> bytes:
    return b"(" + b"".join(map(_int, values)) + b"t"


def grey_png(side: int) -> bytes:
    """Return an RGB picture of `side` x `side` grey pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    rows = (b"\0" + b"\x80" * (3 * side)) * side
    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")
