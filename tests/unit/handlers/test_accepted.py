"""What a handler refuses by a request's headers alone, and how it reads files of names."""

import gzip
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.unit.handlers.support import JSON, Double, FakeContext
from tests.unit.handlers.test_segmenter import segmenter
from tests.unit.handlers.test_shipped import classifier, picture
from tests.unit.handlers.test_text_classifier import Mood
from torchrelay_handlers import Handler, handler_factory, shipped
from torchrelay_handlers.adapters.torchserve import Service
from torchrelay_handlers.messages import Request
from torchrelay_handlers.recipes.classnames import read_classes
from torchrelay_handlers.recipes.vocabulary import read_vocabulary

UNKNOWN = ["application/pdf", "application/xml", "video/mp4", "x/y", "multipart/mixed; boundary=b", "application/zip"]


def texts(folder: Path) -> Handler:
    (folder / "vocab.txt").write_text("[PAD]\n[UNK]\nx\ny\ngood\nbad\n")
    options = {"classes": ["happy", "sad"], "vocab": "vocab.txt"}
    return shipped.make("text-classifier", Mood, options).load(None, model_dir=folder)


def shipped_handlers(folder: Path) -> dict[str, tuple[Handler, bytes]]:
    """Each shipped handler, and a body that it answers."""
    return {
        "tensor": (shipped.make("tensor", Double, {"shape": [3]}).load(None), b"[1, 2, 3]"),
        "image-classifier": (classifier(), picture()),
        "image-segmenter": (segmenter(), picture()),
        "text-classifier": (texts(folder), b"good"),
    }


@pytest.mark.parametrize("kind", UNKNOWN)
def test_an_unknown_content_type_is_415_in_every_shipped_handler(kind: str, tmp_path: Path) -> None:
    for name, (handler, body) in shipped_handlers(tmp_path).items():
        (answer,) = handler.answer([Request(body, kind)])
        assert answer.status == 415, name
        assert json.loads(answer.body)["type"] == "urn:torchrelay:problem:unsupported-media-type"
        (answer,) = handler.answer([Request(body, "application/octet-stream")])
        assert answer.status == 200, f"{name}: the control"


def test_a_custom_handler_decides_about_content_types_itself() -> None:
    handler = handler_factory(Double, lambda body: torch.ones(len(body))).load(None)
    assert handler.answer([Request(b"abc", "application/pdf")])[0].status == 200


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate, gzip", "GZIP", "x"])
def test_a_compressed_body_is_415(encoding: str, tmp_path: Path) -> None:
    """Until now the compressed bytes themselves were classified."""
    for name, (handler, body) in shipped_handlers(tmp_path).items():
        request = Request(gzip.compress(body), "text/plain" if name == "text-classifier" else "", content_encoding=encoding)
        (answer,) = handler.answer([request])
        assert answer.status == 415, name
        assert json.loads(answer.body)["expected"] == {"content-encoding": ["identity"]}
        (answer,) = handler.answer([Request(body, content_encoding="identity")])
        assert answer.status == 200, f"{name}: the control"


def test_torchserves_headers_carry_the_encoding() -> None:
    handler = handler_factory(Double).load(None)
    service = Service(handler)
    service.served = handler
    context = FakeContext("", [JSON])
    context.request_processor[0].headers = {"Content-Type": JSON, "Content-Encoding": "gzip"}
    service([{"body": bytearray(gzip.compress(b"[1, 2, 3]"))}], context)
    assert context.statuses == [415]


NAMES = ["plain", "with\u2028separator", "with\x85next line", "with\x0bvertical tab", "with\x1cfile separator", "last"]


def test_names_are_split_at_newlines_alone(tmp_path: Path) -> None:
    """A name with U+2028 or U+0085 in it shifted every later class by one."""
    for ending in ("\n", "\r\n"):
        (tmp_path / "names.txt").write_bytes("\ufeff".encode() + ending.join([*NAMES, ""]).encode())
        assert read_classes("names.txt", tmp_path) == NAMES
        assert list(read_vocabulary("names.txt", tmp_path)) == NAMES


def test_a_byte_order_mark_before_json_is_removed(tmp_path: Path) -> None:
    (tmp_path / "names.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(NAMES).encode())
    assert read_classes("names.json", tmp_path) == NAMES
    assert list(read_vocabulary("names.json", tmp_path)) == NAMES


def test_the_bad_one_of_several_instances_is_named() -> None:
    class Network(nn.Module):
        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            return batch

    handler = shipped.make("tensor", Network, {"shape": [3]}).load(None)
    (answer,) = handler.answer([Request(b'{"instances": [[1, 2, 3], [1, 2], [4, 5, 6]]}', JSON)])
    assert (answer.status, json.loads(answer.body)["instance"]) == (400, 1)
