"""What `init` writes into a new model directory, text by text."""

import json
import struct
import zlib

MODEL_YAML = """\
# yaml-language-server: $schema={schema}
name: {name}
weights: {weights}{weights_note}
handler: {handler}
{handler_args}model_file: model.py          # init_function makes the network, the weights are loaded into it
samples: samples             # what the model must answer before it serves anybody
device: {device}
batch: {{size: 8, delay_ms: 1}}
resources: {{cpu: 1, memory: 2Gi}}
targets:
  docker: {{port: 8080}}
"""

TENSOR_ARGS = """\
handler_args:
  shape: [4]                 # of one sample, without the batch
  dtype: float32
"""

IMAGE_ARGS = """\
handler_args:
  classes: {classes}
  size: 8                    # height and width of the network's input, in pixels
  mode: RGB
"""

TENSOR_MODEL = '''\
"""A stand-in: one linear layer. Put your own network here."""

import torch


class Network(torch.nn.Module):
    """float32 [N, 4] -> float32 [N, 2]."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = torch.nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x)


def init_function() -> Network:
    """Make the network; its weights are loaded afterwards."""
    return Network()
'''

IMAGE_MODEL = '''\
"""A stand-in: one linear layer over the pixels. Put your own network here."""

import torch


class Network(torch.nn.Module):
    """float32 [N, 3, 8, 8], RGB, 0-1 -> float32 [N, {count}], one score per class."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = torch.nn.Linear(3 * 8 * 8, {count})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x.flatten(1))


def init_function() -> Network:
    """Make the network; its weights are loaded afterwards."""
    return Network()
'''

HANDLER = '''\
"""What happens to one request before the network, and to one output after it."""

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


def safetensors(tensors: dict[str, tuple[list[int], list[float]]]) -> bytes:
    """float32 tensors, each a shape and its numbers, in the format of https://github.com/huggingface/safetensors (0.4).

    Written by hand so that `init` needs no torch: 8 bytes of header length, a JSON header padded to 8, the numbers.
    """
    header: dict[str, object] = {}
    data = b""
    for name, (shape, numbers) in tensors.items():
        packed = struct.pack(f"<{len(numbers)}f", *numbers)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [len(data), len(data) + len(packed)]}
        data += packed
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


def grey_png(side: int) -> bytes:
    """An RGB picture of `side` x `side` grey pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    rows = (b"\0" + b"\x80" * (3 * side)) * side
    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")
